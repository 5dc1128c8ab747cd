#include "accesses.h"

#include <algorithm>
#include <limits>

namespace polystage {

Regions::Regions(Input<std::uint8_t> memory, Input<std::int32_t> buffer, Input<std::int64_t> low,
                 Input<std::int64_t> high, Input<std::int32_t> partition_low,
                 Input<std::int32_t> partition_high, Input<std::int32_t> key,
                 InputRows<std::int32_t> box, Input<std::int32_t> place)
    : memory_(memory),
      buffer_(buffer),
      low_(low),
      high_(high),
      partition_low_(partition_low),
      partition_high_(partition_high),
      key_(key),
      box_(box),
      place_(place) {
    const std::size_t n = memory.size();
    for (const auto& column : {buffer, partition_low, partition_high, key, place})
        check_size(column, n, "one entry per region");
    check_size(low, n, "one lower bound per region");
    check_size(high, n, "one upper bound per region");
    if (box.shape(0) != n || box.shape(1) % 2) throw std::invalid_argument("one box per region");
    for (std::size_t i = 0; i < n; ++i) add_to_hull(i);
}

void Regions::add_to_hull(std::size_t i) {
    const std::int32_t place = place_.data()[i], buffer = buffer_.data()[i];
    if (place < 0 || buffer < 0) throw std::out_of_range("places and buffers count from 0");
    places_ = std::max(places_, place + 1);
    const auto none = std::numeric_limits<std::int64_t>::max();
    const auto no_partition = std::numeric_limits<std::int32_t>::max();
    if (static_cast<std::size_t>(buffer) >= hulls_.size())
        hulls_.resize(buffer + 1, Hull{none, 0, no_partition, 0, -1});
    Hull& hull = hulls_[buffer];
    if (hull.place >= 0 && hull.place != place)
        throw std::invalid_argument("a buffer lies in one memory");
    hull.place = place;
    hull.low = std::min(hull.low, low_.data()[i]);
    hull.high = std::max(hull.high, high_.data()[i]);
    hull.partition_low = std::min(hull.partition_low, partition_low_.data()[i]);
    hull.partition_high = std::max(hull.partition_high, partition_high_.data()[i]);
}

bool Regions::meet(std::int32_t a, std::int32_t b) const {
    const bool same = buffer_.data()[a] == buffer_.data()[b];
    const std::uint8_t memory = memory_.data()[a];
    if (memory != memory_.data()[b] || (memory == DRAM && !same)) return false;
    if (low_.data()[a] >= high_.data()[b] || low_.data()[b] >= high_.data()[a]) return false;
    if (partition_low_.data()[a] >= partition_high_.data()[b] ||
        partition_low_.data()[b] >= partition_high_.data()[a])
        return false;
    const std::int32_t key = key_.data()[a];
    if (!same || key == NO_BOX || key != key_.data()[b]) return true;
    const std::size_t width = box_.shape(1);
    const std::int32_t *box = box_.data() + a * width, *other = box_.data() + b * width;
    for (std::size_t d = 0; d < width; d += 2)
        if (box[d] >= other[d + 1] || other[d] >= box[d + 1]) return false;
    return true;
}

void Accesses::check(std::size_t instructions, const Regions& regions) const {
    check_starts(start, instructions, region.size());
    check_size(way, region.size(), "one way per access");
    check_range(region, 0, static_cast<std::int64_t>(regions.count()), "region of an access");
    check_range(way, 0, WAYS, "way of an access");
}

History::History(const Regions& regions, std::int32_t parties)
    : regions_(regions),
      parties_(parties),
      accessors_(regions.places()),
      buffers_(regions.places() * WAYS * parties_, regions.buffers() * WAYS * parties_),
      entries_of_(regions.buffers() * WAYS * parties_, 0),
      buffer_last_(regions.buffers() * WAYS * parties_, NEVER),
      entry_of_(regions.count() * WAYS * parties_, -1) {}

std::int64_t History::record(std::int32_t who, int way, std::int32_t region,
                             std::int64_t instruction, std::int64_t access) {
    const std::size_t buffer = key(regions_.buffer(region), way, who);
    const std::int32_t place = regions_.place(region);
    if (buffers_.first(key(place, way, who)) < 0) accessors_[place].push_back({who, way});
    buffers_.touch(key(place, way, who), static_cast<std::int32_t>(buffer));
    buffer_last_[buffer] = instruction;
    std::int32_t& e = entry_of_[key(region, way, who)];
    std::int64_t before = NEVER;
    if (e < 0) {
        e = static_cast<std::int32_t>(entries_.size());
        entries_.push_back({instruction, access, region});
        entries_of_.grow();
    } else {
        before = entries_[e].access;
        entries_[e].instruction = instruction;
        entries_[e].access = access;
    }
    entries_of_.touch(buffer, e);
    return before;
}

}  // namespace polystage

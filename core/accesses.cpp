#include "accesses.h"

#include <algorithm>

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
    for (std::size_t i = 0; i < n; ++i) {
        if (place.data()[i] < 0) throw std::out_of_range("places count from 0");
        places_ = std::max(places_, place.data()[i] + 1);
    }
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
      last_(static_cast<std::size_t>(regions.places()) * WAYS * parties, -1),
      entry_of_(regions.count() * WAYS * parties, -1) {}

std::int64_t History::record(std::int32_t who, int way, std::int32_t region,
                             std::int64_t instruction, std::int64_t access) {
    std::int32_t& e = entry_of_[(static_cast<std::size_t>(region) * WAYS + way) * parties_ + who];
    std::int32_t& last = last_[list(regions_.place(region), way, who)];
    if (e < 0) {
        e = static_cast<std::int32_t>(entries_.size());
        entries_.push_back({instruction, access, region, last, -1});
        if (last >= 0) entries_[last].later = e;
        last = e;
        return NEVER;
    }
    Entry& entry = entries_[e];
    const std::int64_t before = entry.access;
    entry.instruction = instruction;
    entry.access = access;
    if (last == e) return before;
    entries_[entry.later].earlier = entry.earlier;
    if (entry.earlier >= 0) entries_[entry.earlier].later = entry.later;
    entry.earlier = last;
    entry.later = -1;
    entries_[last].later = e;
    last = e;
    return before;
}

}  // namespace polystage

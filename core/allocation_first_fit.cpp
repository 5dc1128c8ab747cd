#include "allocation_first_fit.h"

#include <algorithm>
#include <limits>

namespace polystage {

namespace {

/// A live range of a buffer that has its address.
struct Placed {
    std::int64_t address, top, start, end;
};

class Placement {
public:
    Placement(const std::int64_t* row, const std::int64_t* starts, const std::int64_t* ends,
              const std::int64_t* size, const std::int64_t* alignment)
        : row_(row), starts_(starts), ends_(ends), size_(size), alignment_(alignment) {}

    void put(std::int64_t b, std::int64_t address) {
        const auto place = std::upper_bound(placed_.begin(), placed_.end(), address,
                                            [](std::int64_t a, const Placed& p) { return a < p.address; });
        std::vector<Placed> ranges;
        for (std::int64_t k = row_[b]; k < row_[b + 1]; ++k)
            ranges.push_back({address, address + size_[b], starts_[k], ends_[k]});
        placed_.insert(place, ranges.begin(), ranges.end());
    }

    /// Goes through what lives at the same time, lowest address first, looking for gaps.
    std::int64_t find(std::int64_t b, bool best) const {
        std::int64_t free = 0, chosen = -1;
        std::int64_t tightest = std::numeric_limits<std::int64_t>::max();
        for (const Placed& other : placed_) {
            const std::int64_t gap = other.address - free;
            if (gap < size_[b] && other.top <= free) continue;
            if (!meets(b, other)) continue;
            if (gap >= size_[b] && gap < tightest) {
                if (!best) return free;
                tightest = gap;
                chosen = free;
            }
            free = std::max(free, (other.top + alignment_[b] - 1) / alignment_[b] * alignment_[b]);
        }
        return chosen < 0 ? free : chosen;
    }

private:
    bool meets(std::int64_t b, const Placed& other) const {
        for (std::int64_t k = row_[b]; k < row_[b + 1]; ++k)
            if (starts_[k] < other.end && other.start < ends_[k]) return true;
        return false;
    }

    const std::int64_t *row_, *starts_, *ends_, *size_, *alignment_;
    std::vector<Placed> placed_;  // by address
};

}  // namespace

Output<std::int64_t> place_in_order(Input<std::int64_t> row, Input<std::int64_t> starts,
                                    Input<std::int64_t> ends, Input<std::int64_t> size,
                                    Input<std::int64_t> alignment, Input<std::int64_t> address,
                                    Input<std::int64_t> order, bool best) {
    const std::size_t n = size.size();
    check_starts(row, n, starts.size());
    check_size(ends, starts.size(), "one end per start");
    check_size(alignment, n, "one alignment per buffer");
    check_size(address, n, "one address per buffer");
    check_range(alignment, 1, std::numeric_limits<std::int64_t>::max(), "alignment");
    check_range(order, 0, static_cast<std::int64_t>(n), "order");
    Placement placement(row.data(), starts.data(), ends.data(), size.data(), alignment.data());
    std::vector<std::int64_t> result(address.data(), address.data() + n);
    std::vector<bool> free(n, false);
    for (std::size_t k = 0; k < order.size(); ++k) free[order.data()[k]] = true;
    for (std::size_t b = 0; b < n; ++b)
        if (!free[b]) placement.put(static_cast<std::int64_t>(b), result[b]);
    for (std::size_t k = 0; k < order.size(); ++k) {
        const std::int64_t b = order.data()[k];
        result[b] = placement.find(b, best);
        placement.put(b, result[b]);
    }
    return to_numpy(std::move(result));
}

}  // namespace polystage

// What accesses touch, which of them meet, and the last ones of every party.
// The twin of `Meetings` and `History` in python/polystage/simulator/conflicts.py.
#pragma once

#include <cstdint>
#include <vector>

#include "arrays.h"

namespace polystage {

constexpr int READ = 0, WRITE = 1, ARRAY_WRITE = 2, WAYS = 3;
constexpr std::uint8_t DRAM = 2;
constexpr std::int32_t NO_BOX = -1;
constexpr std::int64_t NEVER = -1;

/// The table of regions; `place` has one number per on-chip memory and per DRAM buffer.
class Regions {
public:
    Regions(Input<std::uint8_t> memory, Input<std::int32_t> buffer, Input<std::int64_t> low,
            Input<std::int64_t> high, Input<std::int32_t> partition_low,
            Input<std::int32_t> partition_high, Input<std::int32_t> key,
            InputRows<std::int32_t> box, Input<std::int32_t> place);

    std::size_t count() const { return memory_.size(); }
    std::int32_t places() const { return places_; }
    std::int32_t place(std::int32_t region) const { return place_.data()[region]; }
    bool meet(std::int32_t a, std::int32_t b) const;

private:
    Input<std::uint8_t> memory_;
    Input<std::int32_t> buffer_;
    Input<std::int64_t> low_, high_;
    Input<std::int32_t> partition_low_, partition_high_, key_;
    InputRows<std::int32_t> box_;
    Input<std::int32_t> place_;
    std::int32_t places_ = 0;
};

/// The accesses of all instructions: those of i are [start[i], start[i + 1]).
struct Accesses {
    Input<std::int64_t> start;
    Input<std::int32_t> region;
    Input<std::uint8_t> way;

    void check(std::size_t instructions, const Regions& regions) const;
};

/// The last access to every region, by place, way and who made it; each list from late to early.
class History {
public:
    struct Entry {
        std::int64_t instruction;
        std::int64_t access;
        std::int32_t region;
        std::int32_t earlier;
        std::int32_t later;
    };

    History(const Regions& regions, std::int32_t parties);

    /// Remembers an access, and returns the one before it of the same party, way and region.
    std::int64_t record(std::int32_t who, int way, std::int32_t region, std::int64_t instruction,
                        std::int64_t access);

    /// Calls `found` with entries that meet `region` after an instruction, until it returns false.
    template <typename Found>
    void each_meeting(std::int32_t who, int way, std::int32_t region, std::int64_t after,
                      Found found) const {
        for (std::int32_t e = last_[list(regions_.place(region), way, who)]; e >= 0;
             e = entries_[e].earlier) {
            const Entry& entry = entries_[e];
            if (entry.instruction <= after) return;
            if (regions_.meet(region, entry.region) && !found(entry)) return;
        }
    }

    /// Returns the last instruction whose access meets `region`, at least `after`.
    std::int64_t latest(std::int32_t who, int way, std::int32_t region, std::int64_t after) const {
        std::int64_t latest = after;
        each_meeting(who, way, region, after, [&](const Entry& entry) {
            latest = entry.instruction;
            return false;
        });
        return latest;
    }

private:
    std::size_t list(std::int32_t place, int way, std::int32_t who) const {
        return (static_cast<std::size_t>(place) * WAYS + way) * parties_ + who;
    }

    const Regions& regions_;
    std::size_t parties_;
    std::vector<std::int32_t> last_;
    std::vector<std::int32_t> entry_of_;
    std::vector<Entry> entries_;
};

}  // namespace polystage

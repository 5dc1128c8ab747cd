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
    std::size_t buffers() const { return hulls_.size(); }
    std::int32_t buffer(std::int32_t region) const { return buffer_.data()[region]; }
    bool meet(std::int32_t a, std::int32_t b) const;

    /// Says whether a region may meet one of a buffer of the same place.
    bool may_meet(std::int32_t region, std::int32_t buffer) const {
        const Hull& hull = hulls_[buffer];
        return low_.data()[region] < hull.high && hull.low < high_.data()[region] &&
               partition_low_.data()[region] < hull.partition_high &&
               hull.partition_low < partition_high_.data()[region];
    }

private:
    /// What the regions of a buffer lie in; `place` is -1 for a number that no buffer has.
    struct Hull {
        std::int64_t low, high;
        std::int32_t partition_low, partition_high, place;
    };

    void add_to_hull(std::size_t region);

    Input<std::uint8_t> memory_;
    Input<std::int32_t> buffer_;
    Input<std::int64_t> low_, high_;
    Input<std::int32_t> partition_low_, partition_high_, key_;
    InputRows<std::int32_t> box_;
    Input<std::int32_t> place_;
    std::int32_t places_ = 0;
    std::vector<Hull> hulls_;
};

/// The accesses of all instructions: those of i are [start[i], start[i + 1]).
struct Accesses {
    Input<std::int64_t> start;
    Input<std::int32_t> region;
    Input<std::uint8_t> way;

    void check(std::size_t instructions, const Regions& regions) const;
};

/// Numbers in lists; each is in at most one, and the latest stands first.
class RecencyLists {
public:
    RecencyLists(std::size_t lists, std::size_t numbers) : first_(lists, -1), links_(numbers) {}

    std::int32_t first(std::size_t list) const { return first_[list]; }
    std::int32_t next(std::int32_t number) const { return links_[number].next; }

    /// Moves a number to the front of its list, or puts it there.
    void touch(std::size_t list, std::int32_t number) {
        std::int32_t& first = first_[list];
        if (first == number) return;
        Link& link = links_[number];
        if (link.listed) {
            links_[link.previous].next = link.next;
            if (link.next >= 0) links_[link.next].previous = link.previous;
        }
        link = {-1, first, true};
        if (first >= 0) links_[first].previous = number;
        first = number;
    }

    /// Makes room for one more number.
    void grow() { links_.emplace_back(); }

private:
    struct Link {
        std::int32_t previous = -1, next = -1;
        bool listed = false;
    };
    std::vector<std::int32_t> first_;
    std::vector<Link> links_;
};

/// The last access to every region, by way and who made it: for every place the buffers, for every
/// buffer its regions, the latest first.
class History {
public:
    struct Entry {
        std::int64_t instruction;
        std::int64_t access;
        std::int32_t region;
    };

    struct Accessor {
        std::int32_t who;
        int way;
    };

    History(const Regions& regions, std::int32_t parties);

    /// Returns who has accessed the place of a region, and in which way.
    const std::vector<Accessor>& accessors(std::int32_t region) const {
        return accessors_[regions_.place(region)];
    }

    /// Remembers an access, and returns the one before it of the same party, way and region.
    std::int64_t record(std::int32_t who, int way, std::int32_t region, std::int64_t instruction,
                        std::int64_t access);

    /// Calls `found` with every entry that meets `region` after an instruction.
    template <typename Found>
    void each_meeting(std::int32_t who, int way, std::int32_t region, std::int64_t after,
                      Found found) const {
        look(who, way, region, after, [&](const Entry& entry, std::int64_t) {
            found(entry);
            return true;
        });
    }

    /// Returns the last instruction whose access meets `region`, at least `after`.
    std::int64_t latest(std::int32_t who, int way, std::int32_t region, std::int64_t after) const {
        look(who, way, region, after, [](const Entry& entry, std::int64_t& latest) {
            latest = entry.instruction;
            return false;
        });
        return after;
    }

private:
    /// A number for a place, buffer or region with a way and a party.
    std::size_t key(std::int32_t of, int way, std::int32_t who) const {
        return (static_cast<std::size_t>(of) * WAYS + way) * parties_ + who;
    }

    /// Goes through what meets `region` after `after`, which `found` may raise; where `found`
    /// returns false, the rest of the buffer is left out.
    template <typename Found>
    void look(std::int32_t who, int way, std::int32_t region, std::int64_t& after,
              Found found) const {
        for (std::int32_t b = buffers_.first(key(regions_.place(region), way, who)); b >= 0;
             b = buffers_.next(b)) {
            if (buffer_last_[b] <= after) return;
            if (!regions_.may_meet(region, static_cast<std::int32_t>(b / (WAYS * parties_))))
                continue;
            for (std::int32_t e = entries_of_.first(b); e >= 0; e = entries_of_.next(e)) {
                const Entry& entry = entries_[e];
                if (entry.instruction <= after) break;
                if (regions_.meet(region, entry.region) && !found(entry, after)) break;
            }
        }
    }

    const Regions& regions_;
    std::size_t parties_;
    std::vector<std::vector<Accessor>> accessors_;
    RecencyLists buffers_, entries_of_;
    std::vector<std::int64_t> buffer_last_;
    std::vector<std::int32_t> entry_of_;
    std::vector<Entry> entries_;
};

}  // namespace polystage

#include "allocation_search.h"

#include <algorithm>
#include <limits>
#include <unordered_map>

namespace polystage {

namespace {

constexpr std::int64_t NEVER = std::numeric_limits<std::int64_t>::max();
constexpr int NOWHERE = -1;
/// Failures remembered for one set of unplaced buffers, and entries of all of them together.
constexpr std::size_t FAILURES_OF_A_SET = 64, REMEMBERED = std::size_t{1} << 22;

enum class Answer { impossible, found, unknown };

/// A set of sections.
class Sections {
public:
    explicit Sections(int count) : words_((count + 63) / 64) {}
    void add(int s) { words_[s >> 6] |= std::uint64_t{1} << (s & 63); }
    void add(const Sections& other) {
        for (std::size_t k = 0; k < words_.size(); ++k) words_[k] |= other.words_[k];
    }
    bool has(int s) const { return words_[s >> 6] >> (s & 63) & 1; }
    void clear() { std::fill(words_.begin(), words_.end(), 0); }

private:
    std::vector<std::uint64_t> words_;
};

/// The numbers of Marsaglia's xorshift64.
class Random {
public:
    std::uint64_t next() {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return state_;
    }
    double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }

private:
    std::uint64_t state_ = 88172645463325252u;
};

/// 1 1 2 1 1 2 4 1 1 2 1 1 2 4 8 ...
std::int64_t luby(std::int64_t i) {
    std::int64_t whole = 1;
    while (whole < i + 1) whole = 2 * whole + 1;
    if (whole == i + 1) return (whole + 1) / 2;
    return luby(i - whole / 2);
}

/// The floor of a section before it was raised.
struct Change {
    int section;
    std::int64_t floor;
};

/// Floors with which the buffers that were unplaced cannot be placed.
struct Failure {
    std::vector<Change> floors;
};

/// What is to be placed in the sections [low, high), and why their floors are where they are.
struct Node {
    int low, high;
    std::vector<int> unplaced;
    std::uint64_t key = 0;
    std::vector<Change> entry;          // floors before they were raised
    std::vector<int> raised;            // per section: its row of `causes`, or NOWHERE
    std::vector<Sections> causes;
};

/// How to go on: the lowest buffer over `section` is a candidate at its floor, or it lies at
/// `raise` or above (NEVER: it cannot).
struct Branching {
    int section = NOWHERE;
    std::vector<int> candidates;
    std::int64_t raise = NEVER;
};

class Search {
public:
    Search(const Input<std::int64_t>& start, const Input<std::int32_t>& sections,
           const Input<std::int64_t>& size, const Input<std::int64_t>& alignment,
           const Input<std::int64_t>& fixed, const Input<std::int32_t>& kind,
           const InputRows<double>& keys, int count, std::int64_t capacity, std::int64_t effort)
        : n_(static_cast<int>(size.size())),
          count_(count),
          start_(start.data()),
          sections_(sections.data()),
          size_(size.data()),
          alignment_(alignment.data()),
          fixed_(fixed.data()),
          kind_(kind.data()),
          keys_(keys),
          capacity_(capacity),
          effort_(effort),
          over_(count),
          head_(n_),
          support_(n_) {
        for (int b = 0; b < n_; ++b) {
            names_.push_back(random_.next());
            for (std::int64_t k = start_[b]; k < start_[b + 1]; ++k)
                over_[sections_[k]].push_back(b);
        }
        for (int s = 0; s < count; ++s)
            looks_.push_back(looks_.back() + static_cast<std::int64_t>(over_[s].size()));
    }

    Answer run() {
        const std::int64_t rows = static_cast<std::int64_t>(keys_.shape(0));
        for (std::int64_t attempt = 0; spent < effort_; ++attempt) {
            const std::int64_t cycle = attempt / (2 * rows);
            reset(attempt % rows, cycle);
            fewest_first_ = attempt / rows % 2 == 1;
            nodes_left_ = 8 * n_ * luby(cycle);
            std::vector<int> all(n_);
            for (int b = 0; b < n_; ++b) all[b] = b;
            Sections blame(count_);
            const Answer answer = place_all(all, 0, count_, blame);
            if (answer != Answer::unknown) return answer;
        }
        return Answer::unknown;
    }

    std::vector<std::int64_t> address;
    std::int64_t spent = 0;

private:
    int first(int b) const { return sections_[start_[b]]; }
    int last(int b) const { return sections_[start_[b + 1] - 1]; }

    void reset(std::int64_t row, std::int64_t cycle) {
        floor_.assign(count_, 0);
        rest_.assign(count_, 0);
        crossing_.assign(count_, 0);
        placed_.assign(n_, 0);
        address.assign(n_, 0);
        trail_.clear();
        preference_.assign(n_, 0);
        const double spread = 0.5 * static_cast<double>(std::min<std::int64_t>(cycle, 4));
        for (int b = 0; b < n_; ++b) {
            count_in(b, 1);
            preference_[b] = keys_.data()[row * n_ + b];
            if (cycle > 0) preference_[b] *= 1 + spread * (random_.unit() - 0.5);
        }
    }

    /// Adds a buffer to what is unplaced (sign 1), or takes it out (-1).
    void count_in(int b, int sign) {
        for (std::int64_t k = start_[b]; k < start_[b + 1]; ++k)
            rest_[sections_[k]] += sign * size_[b];
        for (int s = first(b); s < last(b); ++s) crossing_[s] += sign;
    }

    void raise_floor(int s, std::int64_t floor) {
        trail_.push_back({s, floor_[s]});
        floor_[s] = floor;
    }

    void place(int b, std::int64_t at) {
        placed_[b] = 1;
        address[b] = at;
        for (std::int64_t k = start_[b]; k < start_[b + 1]; ++k)
            raise_floor(sections_[k], at + size_[b]);
        count_in(b, -1);
    }

    void undo(const Node& node, std::size_t mark) {
        for (const int b : node.unplaced)
            if (placed_[b]) {
                placed_[b] = 0;
                count_in(b, 1);
            }
        for (; trail_.size() > mark; trail_.pop_back())
            floor_[trail_.back().section] = trail_.back().floor;
    }

    /// Places what is unplaced in [low, high): parts with no buffer in common each for itself.
    Answer place_all(const std::vector<int>& among, int low, int high, Sections& blame) {
        for (int s = low; s < high; ++s) {
            if (s + 1 < high && crossing_[s] > 0) continue;
            const Answer answer = place_part(among, low, s + 1, blame);
            if (answer != Answer::found) return answer;
            low = s + 1;
        }
        return Answer::found;
    }

    Answer place_part(const std::vector<int>& among, int low, int high, Sections& blame) {
        Node node{high, low, {}, 0, {}, {}, {}};
        for (const int b : among) {
            if (placed_[b] || first(b) < low || last(b) >= high) continue;
            node.unplaced.push_back(b);
            node.key ^= names_[b];
            node.low = std::min(node.low, first(b));
            node.high = std::max(node.high, last(b) + 1);
        }
        if (node.unplaced.empty()) return Answer::found;
        if (--nodes_left_ < 0 || spent >= effort_) return Answer::unknown;
        if (failed_before(node, blame)) return Answer::impossible;
        const std::size_t mark = trail_.size();
        for (int s = node.low; s < node.high; ++s) node.entry.push_back({s, floor_[s]});
        node.raised.assign(node.high - node.low, NOWHERE);
        Sections mine(count_);
        const Answer answer = tighten(node, mine) ? branch(node, mine) : Answer::impossible;
        if (answer != Answer::found) undo(node, mark);
        if (answer == Answer::impossible) blame.add(mine);
        return answer;
    }

    Answer branch(Node& node, Sections& blame) {
        spent += looks_[node.high] - looks_[node.low];
        const Branching choice = choose(node);
        blame_choice(node, choice, blame);
        const std::int64_t floor = floor_[choice.section];
        const std::size_t mark = trail_.size();
        Sections theirs(count_);
        for (std::size_t k = 0; k < choice.candidates.size(); ++k) {
            const int b = choice.candidates[k];
            if (like_one_before(choice.candidates, k)) continue;
            theirs.clear();
            place(b, floor);
            const Answer answer = place_all(node.unplaced, node.low, node.high, theirs);
            if (answer == Answer::found) return answer;
            undo(node, mark);
            if (answer == Answer::unknown) return answer;
            bool matters = false;
            for (std::int64_t s = start_[b]; s < start_[b + 1]; ++s)
                matters |= theirs.has(sections_[s]);
            if (!matters) blame.clear();
            explain(node, theirs, blame);
            if (!matters) return remember(node, blame);
        }
        if (choice.raise == NEVER) return remember(node, blame);
        theirs.clear();
        raise_floor(choice.section, choice.raise);
        const Answer answer = place_part(node.unplaced, node.low, node.high, theirs);
        if (answer == Answer::found) return answer;
        undo(node, mark);
        if (answer == Answer::unknown) return answer;
        if (!theirs.has(choice.section)) blame.clear();
        explain(node, theirs, blame);
        return remember(node, blame);
    }

    bool like_one_before(const std::vector<int>& candidates, std::size_t k) const {
        return std::any_of(candidates.begin(), candidates.begin() + k,
                           [&](int b) { return kind_[b] == kind_[candidates[k]]; });
    }

    /// Raises floors to where the lowest buffer can be, until nothing changes; false where a section
    /// is too full, with the sections to blame.
    bool tighten(Node& node, Sections& blame) {
        for (bool changed = true; changed;) {
            changed = false;
            for (const int b : node.unplaced)
                if (!find_head(node, b, blame)) return false;
            for (int s = node.low; s < node.high; ++s) {
                if (rest_[s] == 0) continue;
                const std::int64_t lowest = lowest_head(s);
                if (lowest > floor_[s]) {
                    blame_heads(node, s);
                    raise_floor(s, lowest);
                    changed = true;
                }
                if (floor_[s] + rest_[s] > capacity_) {
                    add_cause(node, s, blame);
                    return false;
                }
            }
        }
        for (int s = node.low; s < node.high; ++s)
            if (rest_[s] > 0 && !stacks(node, s, blame)) return false;
        return true;
    }

    /// Finds the lowest address of a buffer, and a section that keeps it from going lower.
    bool find_head(const Node& node, int b, Sections& blame) {
        std::int64_t highest = NOWHERE;
        for (std::int64_t k = start_[b]; k < start_[b + 1]; ++k) {
            const int s = sections_[k];
            if (floor_[s] > highest) {
                highest = floor_[s];
                support_[b] = s;
            }
        }
        spent += start_[b + 1] - start_[b];
        head_[b] = (highest + alignment_[b] - 1) / alignment_[b] * alignment_[b];
        bool fits = head_[b] + size_[b] <= capacity_;
        if (fixed_[b] >= 0) fits = highest <= fixed_[b];
        if (!fits) add_cause(node, support_[b], blame);
        if (fixed_[b] >= 0) {
            head_[b] = fixed_[b];
            support_[b] = NOWHERE;
        }
        return fits;
    }

    std::int64_t lowest_head(int s) const {
        std::int64_t lowest = NEVER;
        for (const int b : over_[s])
            if (!placed_[b]) lowest = std::min(lowest, head_[b]);
        return lowest;
    }

    /// Adds why a floor is where it is, in terms of the floors with which the node began.
    void add_cause(const Node& node, int s, Sections& to) const {
        if (s == NOWHERE) return;
        const int row = node.raised[s - node.low];
        if (row == NOWHERE) {
            to.add(s);
        } else {
            to.add(node.causes[row]);
        }
    }

    void explain(const Node& node, const Sections& sections, Sections& to) const {
        for (int s = node.low; s < node.high; ++s)
            if (sections.has(s)) add_cause(node, s, to);
    }

    void blame_heads(Node& node, int s) const {
        Sections cause(count_);
        for (const int b : over_[s])
            if (!placed_[b]) add_cause(node, support_[b], cause);
        int& row = node.raised[s - node.low];
        if (row == NOWHERE) {
            row = static_cast<int>(node.causes.size());
            node.causes.push_back(cause);
        } else {
            node.causes[row] = cause;
        }
    }

    /// Whether the buffers over a section, stacked in the order of their lowest addresses, end
    /// within the capacity.
    bool stacks(const Node& node, int s, Sections& blame) {
        stack_.clear();
        for (const int b : over_[s])
            if (!placed_[b]) stack_.push_back({head_[b], b});
        std::sort(stack_.begin(), stack_.end());
        std::int64_t top = 0;
        std::size_t begin = 0;
        for (std::size_t k = 0; k < stack_.size(); ++k) {
            if (stack_[k].first > top) {
                top = stack_[k].first;
                begin = k;
            }
            top += size_[stack_[k].second];
        }
        if (top <= capacity_) return true;
        for (std::size_t k = begin; k < stack_.size(); ++k)
            add_cause(node, floor_[s] >= stack_[begin].first ? s : support_[stack_[k].second], blame);
        return false;
    }

    Branching choose(const Node& node) {
        find_smallest(node);
        int best = NOWHERE;
        std::pair<std::int64_t, std::int64_t> best_rank{NEVER, NEVER};
        for (int s = node.low; s < node.high; ++s) {
            if (rest_[s] == 0) continue;
            std::int64_t options = 0, raise = 0;
            if (!weigh(s, options, raise)) continue;
            std::pair<std::int64_t, std::int64_t> rank{floor_[s], options};
            if (fewest_first_) std::swap(rank.first, rank.second);
            if (rank < best_rank) {
                best_rank = rank;
                best = s;
            }
        }
        Branching choice;
        choice.section = best;
        std::int64_t options = 0;
        weigh(best, options, choice.raise);
        for (const int b : over_[best])
            if (!placed_[b] && head_[b] == floor_[best]) choice.candidates.push_back(b);
        std::stable_sort(choice.candidates.begin(), choice.candidates.end(),
                         [&](int a, int b) { return preference_[a] > preference_[b]; });
        return choice;
    }

    /// Counts the ways to go on at a section: buffers that can lie at its floor, and leaving room
    /// below the lowest. False where such a buffer would leave room elsewhere.
    bool weigh(int s, std::int64_t& options, std::int64_t& raise) const {
        options = 0;
        raise = NEVER;
        for (const int b : over_[s]) {
            if (placed_[b]) continue;
            if (head_[b] > floor_[s]) {
                raise = std::min(raise, head_[b]);
                continue;
            }
            ++options;
            std::int64_t smallest = NEVER;
            for (std::int64_t k = start_[b]; k < start_[b + 1]; ++k) {
                const int y = sections_[k];
                if (floor_[y] < floor_[s]) return false;
                smallest = std::min(smallest, smallest_[y] == size_[b] ? second_[y] : smallest_[y]);
            }
            if (smallest != NEVER && fixed_[b] < 0) raise = std::min(raise, floor_[s] + smallest);
        }
        if (raise != NEVER && raise + rest_[s] > capacity_) raise = NEVER;
        options += raise != NEVER;
        return true;
    }

    /// Finds the sizes of the two smallest unplaced buffers over every section.
    void find_smallest(const Node& node) {
        smallest_.resize(count_);
        second_.resize(count_);
        for (int s = node.low; s < node.high; ++s) {
            smallest_[s] = second_[s] = NEVER;
            for (const int b : over_[s]) {
                if (placed_[b] || size_[b] >= second_[s]) continue;
                second_[s] = size_[b];
                if (second_[s] < smallest_[s]) std::swap(smallest_[s], second_[s]);
            }
        }
    }

    /// Blames the floors that make the options of a choice complete.
    void blame_choice(const Node& node, const Branching& choice, Sections& blame) const {
        const int s = choice.section;
        add_cause(node, s, blame);
        for (const int b : over_[s])
            if (!placed_[b] && head_[b] > floor_[s]) add_cause(node, support_[b], blame);
        if (floor_[s] + rest_[s] == capacity_) return;  // no room to leave, whatever is below
        for (const int b : choice.candidates)
            for (std::int64_t k = start_[b]; k < start_[b + 1]; ++k)
                add_cause(node, sections_[k], blame);
    }

    bool failed_before(const Node& node, Sections& blame) const {
        const auto found = failures_.find(node.key);
        if (found == failures_.end()) return false;
        for (const Failure& failure : found->second) {
            const auto& floors = failure.floors;
            if (!std::all_of(floors.begin(), floors.end(),
                             [&](const Change& c) { return floor_[c.section] >= c.floor; }))
                continue;
            for (const Change& c : floors) blame.add(c.section);
            return true;
        }
        return false;
    }

    Answer remember(const Node& node, const Sections& blame) {
        std::vector<Failure>& known = failures_[node.key];
        if (known.size() < FAILURES_OF_A_SET && remembered_ < REMEMBERED) {
            Failure failure;
            for (const Change& c : node.entry)
                if (blame.has(c.section)) failure.floors.push_back(c);
            remembered_ += failure.floors.size();
            known.push_back(std::move(failure));
        }
        return Answer::impossible;
    }

    const int n_, count_;
    const std::int64_t* start_;
    const std::int32_t* sections_;
    const std::int64_t *size_, *alignment_, *fixed_;
    const std::int32_t* kind_;
    InputRows<double> keys_;
    const std::int64_t capacity_, effort_;
    std::vector<std::vector<int>> over_;
    std::vector<std::int64_t> looks_{0};  // how many buffers are over all sections before
    Random random_;
    std::vector<std::uint64_t> names_;
    std::vector<std::int64_t> head_;
    std::vector<int> support_;

    bool fewest_first_ = false;
    std::int64_t nodes_left_ = 0;
    std::vector<double> preference_;
    std::vector<std::int64_t> floor_, rest_;
    std::vector<int> crossing_;
    std::vector<std::uint8_t> placed_;
    std::vector<Change> trail_;
    std::vector<std::int64_t> smallest_, second_;
    std::vector<std::pair<std::int64_t, int>> stack_;
    std::unordered_map<std::uint64_t, std::vector<Failure>> failures_;
    std::size_t remembered_ = 0;
};

}  // namespace

std::tuple<int, Output<std::int64_t>, std::int64_t> search_addresses(
    Input<std::int64_t> start, Input<std::int32_t> sections, Input<std::int64_t> size,
    Input<std::int64_t> alignment, Input<std::int64_t> fixed, Input<std::int32_t> kind,
    InputRows<double> keys, std::int32_t section_count, std::int64_t capacity, std::int64_t effort) {
    const std::size_t n = size.size();
    check_starts(start, n, sections.size());
    check_range(sections, 0, section_count, "section");
    check_size(alignment, n, "one alignment per buffer");
    check_size(fixed, n, "one address or -1 per buffer");
    check_size(kind, n, "one kind per buffer");
    if (keys.shape(1) != n || keys.shape(0) == 0) throw std::invalid_argument("a key per buffer");
    check_range(alignment, 1, NEVER, "alignment");
    for (std::size_t b = 0; b < n; ++b)
        if (start.data()[b] == start.data()[b + 1]) throw std::invalid_argument("never live");
    Search search(start, sections, size, alignment, fixed, kind, keys, section_count, capacity,
                  effort);
    const Answer answer = search.run();
    const int code = answer == Answer::found ? 1 : answer == Answer::impossible ? 0 : -1;
    return {code, to_numpy(std::move(search.address)), search.spent};
}

}  // namespace polystage

#include "races.h"

#include <algorithm>
#include <array>

#include "kinds.h"

namespace polystage {

namespace {

/// What has ended before every instruction: `before[i]` is a version of `values`, or -1.
class Clocks {
public:
    Clocks(Input<std::uint8_t> queue, Input<std::uint8_t> kind, Input<std::int32_t> semaphore,
           Input<std::int64_t> semaphores, std::int32_t queues, std::int32_t ignored)
        : before(queue.size(), -1),
          stuck(queues, NEVER),
          kind_(kind),
          semaphore_(semaphore),
          ignored_(ignored),
          queues_(queues),
          values_(queues, NEVER),
          programs_(queues),
          at_(queues, 0),
          clock_(queues, 0),
          tokens_(semaphores.size()),
          taken_(semaphores.size(), 0),
          waiter_(semaphores.size(), -1) {
        const std::size_t n = queue.size();
        check_size(kind, n, "one kind per instruction");
        check_size(semaphore, n, "one semaphore per instruction");
        check_range(queue, 0, queues, "queue");
        for (std::size_t i = 0; i < n; ++i) {
            if (kind.data()[i] >= SIGNAL &&
                (semaphore.data()[i] < 0 ||
                 static_cast<std::size_t>(semaphore.data()[i]) >= tokens_.size()))
                throw std::out_of_range("semaphore");
            programs_[queue.data()[i]].push_back(static_cast<std::int64_t>(i));
        }
        for (std::size_t s = 0; s < tokens_.size(); ++s)
            tokens_[s].assign(std::max<std::int64_t>(semaphores.data()[s], 0), 0);
        run();
    }

    const std::int64_t* value(std::int64_t version) const { return &values_[version * queues_]; }

    std::vector<std::int64_t> before;
    std::vector<std::int64_t> stuck;

private:
    void run() {
        for (std::int32_t q = queues_; q-- > 0;) runnable_.push_back(q);
        while (!runnable_.empty()) {
            const std::int32_t q = runnable_.back();
            runnable_.pop_back();
            advance(q);
        }
        for (std::int32_t q = 0; q < queues_; ++q)
            if (at_[q] < programs_[q].size()) stuck[q] = programs_[q][at_[q]];
    }

    void advance(std::int32_t q) {
        const auto& program = programs_[q];
        for (; at_[q] < program.size(); ++at_[q]) {
            const std::int64_t i = program[at_[q]];
            const std::int32_t s = semaphore_.data()[i];
            const std::uint8_t kind = kind_.data()[i];
            if (kind >= SIGNAL && s != ignored_) {
                if (kind == SIGNAL)
                    signal(q, i, s);
                else if (!wait(q, s))
                    return;
            }
            before[i] = clock_[q];
        }
    }

    std::int64_t copy_of(std::int64_t version) {
        const auto made = static_cast<std::int64_t>(values_.size() / queues_);
        values_.resize(values_.size() + queues_);
        std::copy_n(&values_[version * queues_], queues_, &values_[made * queues_]);
        return made;
    }

    void signal(std::int32_t q, std::int64_t i, std::int32_t s) {
        const std::int64_t token = copy_of(clock_[q]);
        values_[token * queues_ + q] = i;
        tokens_[s].push_back(token);
        if (waiter_[s] >= 0) runnable_.push_back(waiter_[s]);
        waiter_[s] = -1;
    }

    bool wait(std::int32_t q, std::int32_t s) {
        if (taken_[s] == tokens_[s].size()) {
            waiter_[s] = q;
            return false;
        }
        const std::int64_t token = tokens_[s][taken_[s]++];
        const std::int64_t joined = copy_of(clock_[q]);
        std::int64_t* mine = &values_[joined * queues_];
        const std::int64_t* theirs = &values_[token * queues_];
        for (std::int32_t r = 0; r < queues_; ++r) mine[r] = std::max(mine[r], theirs[r]);
        clock_[q] = joined;
        return true;
    }

    Input<std::uint8_t> kind_;
    Input<std::int32_t> semaphore_;
    std::int32_t ignored_, queues_;
    std::vector<std::int64_t> values_;
    std::vector<std::vector<std::int64_t>> programs_;
    std::vector<std::size_t> at_;
    std::vector<std::int64_t> clock_;
    std::vector<std::vector<std::int64_t>> tokens_;
    std::vector<std::size_t> taken_;
    std::vector<std::int32_t> waiter_;
    std::vector<std::int32_t> runnable_;
};

using Race = std::array<std::int64_t, 4>;  // second, first, region of the first, of the second

/// One pass over the accesses in program order.
class Search {
public:
    Search(const Regions& regions, Input<std::uint8_t> queue, const Accesses& accesses,
           const Clocks& clocks, std::int32_t queues)
        : queue_(queue),
          accesses_(accesses),
          clocks_(clocks),
          queues_(queues),
          history_(regions, queues),
          instruction_of_(accesses.region.size()),
          same_before_(accesses.region.size()) {}

    void run(std::int64_t limit) {
        for (std::size_t i = 0; i < queue_.size(); ++i) {
            if (clocks_.before[i] >= 0) instruction(static_cast<std::int64_t>(i));
            if (limit && static_cast<std::int64_t>(races.size()) >= limit) break;
        }
        if (limit && static_cast<std::int64_t>(races.size()) > limit) races.resize(limit);
    }

    std::vector<Race> races;

private:
    void instruction(std::int64_t i) {
        const std::int64_t* clock = clocks_.value(clocks_.before[i]);
        const std::int32_t queue = queue_.data()[i];
        const auto first = races.size();
        const std::int64_t begin = accesses_.start.data()[i], end = accesses_.start.data()[i + 1];
        for (std::int64_t a = begin; a < end; ++a)
            for (const auto& [other, their_way] : history_.accessors(accesses_.region.data()[a]))
                if (other != queue && (their_way != READ || accesses_.way.data()[a] != READ))
                    look(i, a, other, their_way, clock[other]);
        for (std::int64_t a = begin; a < end; ++a) {
            instruction_of_[a] = i;
            same_before_[a] = history_.record(queue, accesses_.way.data()[a],
                                              accesses_.region.data()[a], i, a);
        }
        std::sort(races.begin() + first, races.end());
        races.erase(std::unique(races.begin() + first, races.end()), races.end());
    }

    /// Adds the races of an access with what another queue has done after `ended`.
    void look(std::int64_t i, std::int64_t a, std::int32_t other, int way, std::int64_t ended) {
        const std::int32_t region = accesses_.region.data()[a];
        history_.each_meeting(other, way, region, ended, [&](const History::Entry& entry) {
            for (std::int64_t b = entry.access; b >= 0 && instruction_of_[b] > ended;
                 b = same_before_[b])
                races.push_back({i, instruction_of_[b], entry.region, region});
        });
    }

    Input<std::uint8_t> queue_;
    const Accesses& accesses_;
    const Clocks& clocks_;
    std::int32_t queues_;
    History history_;
    std::vector<std::int64_t> instruction_of_, same_before_;
};

}  // namespace

Output<std::int64_t> stuck(Input<std::uint8_t> queue, Input<std::uint8_t> kind,
                           Input<std::int32_t> semaphore, Input<std::int64_t> semaphores,
                           std::int32_t queues, std::int32_t ignored) {
    Clocks clocks(queue, kind, semaphore, semaphores, queues, ignored);
    return to_numpy(std::move(clocks.stuck));
}

RaceColumns find_races(const Regions& regions, Input<std::uint8_t> queue,
                       Input<std::uint8_t> kind, Input<std::int32_t> semaphore,
                       Input<std::int64_t> semaphores, Input<std::int64_t> start,
                       Input<std::int32_t> region, Input<std::uint8_t> way, std::int32_t queues,
                       std::int64_t limit, std::int32_t ignored) {
    const Accesses accesses{start, region, way};
    accesses.check(queue.size(), regions);
    const Clocks clocks(queue, kind, semaphore, semaphores, queues, ignored);
    Search search(regions, queue, accesses, clocks, queues);
    search.run(limit);
    std::array<std::vector<std::int64_t>, 4> columns;
    for (const Race& race : search.races)
        for (std::size_t k = 0; k < 4; ++k) columns[k].push_back(race[k]);
    return {to_numpy(std::move(columns[1])), to_numpy(std::move(columns[0])),
            to_numpy(std::move(columns[2])), to_numpy(std::move(columns[3]))};
}

}  // namespace polystage

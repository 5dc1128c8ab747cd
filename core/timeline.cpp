#include "timeline.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <functional>
#include <limits>
#include <queue>

#include "kinds.h"

namespace polystage {

TraceColumns::TraceColumns(Input<std::uint8_t> kind_, Input<std::uint8_t> queue_,
                           Input<double> busy_, Input<double> latency_, Input<double> form_,
                           Input<double> dram_, Input<std::uint8_t> ports_,
                           Input<std::int32_t> semaphore_, Input<std::int64_t> semaphores_,
                           Input<std::int64_t> after_start_, Input<std::int64_t> after_,
                           std::vector<bool> is_dma_)
    : kind(kind_),
      queue(queue_),
      busy(busy_),
      latency(latency_),
      form(form_),
      dram(dram_),
      ports(ports_),
      semaphore(semaphore_),
      semaphores(semaphores_),
      after_start(after_start_),
      after(after_),
      is_dma(std::move(is_dma_)) {
    const std::size_t n = kind.size();
    for (const auto& column : {busy, latency, form, dram})
        check_size(column, n, "one time per instruction");
    check_size(queue, n, "one queue per instruction");
    check_size(ports, n, "one mask of ports per instruction");
    check_size(semaphore, n, "one semaphore per instruction");
    check_starts(after_start, n, after.size());
    const auto rows = static_cast<std::int64_t>(n);
    check_range(after, -rows, rows, "instruction that is waited for");
    check_range(kind, 0, KINDS, "kind");
    check_range(queue, 0, static_cast<std::int64_t>(is_dma.size()), "queue");
    for (std::size_t i = 0; i < n; ++i)
        if (kind.data()[i] >= SIGNAL &&
            (semaphore.data()[i] < 0 ||
             static_cast<std::size_t>(semaphore.data()[i]) >= semaphores.size()))
            throw std::out_of_range("semaphore");
}

namespace {

constexpr double INFINITE = std::numeric_limits<double>::infinity();
constexpr double UNKNOWN = std::numeric_limits<double>::quiet_NaN();
constexpr double ROUNDING = 1e-9;
constexpr std::array<std::uint8_t, 2> PORTS = {1, 2};

/// How much of a capacity is taken from now on; the last level is 0 and holds forever.
struct Profile {
    explicit Profile(double capacity_)
        : capacity(capacity_), full(capacity_ * (1.0 - ROUNDING)), times(1, 0.0), levels(1, 0.0) {}

    double next(std::size_t i) const { return i + 1 < times.size() ? times[i + 1] : INFINITE; }

    /// Forgets what lies before `now` and makes it the first boundary.
    void begin(double now) {
        std::size_t i = 0;
        while (i + 1 < times.size() && times[i + 1] <= now) ++i;
        times.erase(times.begin(), times.begin() + i);
        levels.erase(levels.begin(), levels.begin() + i);
        if (times[0] < now) times[0] = now;
    }

    /// Raises the level from boundary i to `until`, which is not beyond the next boundary.
    void take(std::size_t i, double until, double amount) {
        if (until < next(i)) {
            times.insert(times.begin() + i + 1, until);
            levels.insert(levels.begin() + i + 1, levels[i]);
        }
        const double level = levels[i] + amount;
        levels[i] = level > full ? capacity : level;
    }

    double capacity, full;
    std::vector<double> times, levels;
};

/// Takes up to `fastest` of what is free from the first boundary on until the work is done.
double fill(Profile& pool, double work, double fastest) {
    for (std::size_t i = 0;; ++i) {
        const double time = pool.times[i], next = pool.next(i);
        const double rate = std::min(fastest, 1.0 - pool.levels[i]);
        if (rate > 0.0) {
            const double end = time + work / rate;
            if (end <= next) {
                pool.take(i, end, rate);
                return end;
            }
            work = std::max(0.0, work - rate * (next - time));
            pool.take(i, next, rate);
        }
    }
}

/// Fills the DMA engines no faster than DRAM, of which work takes `density` bytes per ns.
double fill_both(Profile& pool, Profile& dram, double work, double fastest, double density) {
    std::size_t i = 0, k = 0;
    double time = pool.times[0];
    for (;;) {
        const double free = (dram.capacity - dram.levels[k]) / density;
        const double rate = std::min({fastest, 1.0 - pool.levels[i], free});
        double next_pool = pool.next(i), next_dram = dram.next(k);
        double until = std::min(next_pool, next_dram);
        if (rate > 0.0) {
            const double end = time + work / rate;
            const bool last = end <= until;
            if (last) until = end;
            work = std::max(0.0, work - rate * (until - time));
            pool.take(i, until, rate);
            dram.take(k, until, rate * density);
            if (last) return end;
            next_pool = next_dram = until;
        }
        i += next_pool <= until;
        k += next_dram <= until;
        time = until;
    }
}

struct Core;

struct Queue {
    Core* core = nullptr;
    std::int32_t number = 0;
    bool is_dma = false;
    std::vector<std::int64_t> program;
    std::size_t at = 0;
    double ready = 0.0, computed = 0.0, moved = 0.0;
    std::deque<std::int64_t> pending;
    std::int32_t next_waiter = -1;  // another queue that waits for the same entry of `after`
};

struct Core {
    Core(std::int32_t number_, const TraceColumns& trace_)
        : number(number_),
          trace(trace_),
          start(trace.count(), UNKNOWN),
          move(trace.count(), UNKNOWN),
          end(trace.count(), UNKNOWN),
          done(trace.count(), UNKNOWN),
          tokens(trace.semaphores.size()),
          taken(trace.semaphores.size(), 0),
          token_waiter(trace.semaphores.size(), -1),
          end_waiter(trace.count(), -1),
          issue_waiter(trace.count(), -1),
          pool(1.0),
          queues(trace.is_dma.size()) {
        for (std::size_t s = 0; s < tokens.size(); ++s)
            tokens[s].assign(std::max<std::int64_t>(trace.semaphores.data()[s], 0), 0.0);
        for (std::size_t q = 0; q < queues.size(); ++q) {
            queues[q].core = this;
            queues[q].number = static_cast<std::int32_t>(q);
            queues[q].is_dma = trace.is_dma[q];
        }
        for (std::size_t i = 0; i < trace.count(); ++i)
            queues[trace.queue.data()[i]].program.push_back(static_cast<std::int64_t>(i));
    }

    std::uint8_t kind(std::int64_t i) const { return trace.kind.data()[i]; }
    double busy(std::int64_t i) const { return trace.busy.data()[i]; }

    std::int32_t number;
    const TraceColumns& trace;
    std::vector<double> start, move, end, done;
    std::vector<std::vector<double>> tokens;
    std::vector<std::size_t> taken;
    std::vector<std::int32_t> token_waiter, end_waiter, issue_waiter;
    Profile pool;
    std::array<double, PORTS.size()> port_until = {0.0, 0.0};
    std::array<std::int32_t, PORTS.size()> port_holder = {0, 0};
    std::vector<std::int64_t> wait_instruction;
    std::vector<std::uint8_t> wait_port, wait_holder;
    std::vector<double> wait_ns;
    std::vector<Queue> queues;
};

struct Event {
    double time;
    std::int64_t instruction;
    std::int32_t core;
    bool moves;

    bool operator>(const Event& other) const {
        if (time != other.time) return time > other.time;
        if (instruction != other.instruction) return instruction > other.instruction;
        return core > other.core;
    }
};

class Device {
public:
    Device(const std::vector<const TraceColumns*>& traces, double startup, double dram_rate,
           bool dram_limits)
        : startup_(startup), dram_(dram_rate), dram_limits_(dram_limits) {
        for (const TraceColumns* trace : traces)
            cores.emplace_back(static_cast<std::int32_t>(cores.size()), *trace);
        for (Core& core : cores)
            for (Queue& queue : core.queues) runnable_.push_back(&queue);
    }

    void run() {
        advance_runnable();
        while (!events_.empty()) {
            const Event event = events_.top();
            events_.pop();
            Core& core = cores[event.core];
            if (event.moves)
                move(core, event.instruction, event.time);
            else
                ask_ports(core, event.instruction, event.time);
            advance_runnable();
        }
    }

    std::deque<Core> cores;

private:
    void advance_runnable() {
        while (!runnable_.empty()) {
            Queue* queue = runnable_.back();
            runnable_.pop_back();
            advance(*queue);
        }
    }

    /// Takes instructions of a queue until one must wait for something not yet known.
    void advance(Queue& queue) {
        Core& core = *queue.core;
        for (; queue.at < queue.program.size(); ++queue.at) {
            const std::int64_t i = queue.program[queue.at];
            const std::uint8_t kind = core.kind(i);
            if (kind == SIGNAL) {
                signal(queue, i);
            } else if (kind == WAIT) {
                if (!pass_wait(queue, i)) return;
            } else {
                const double start = after(queue, i);
                if (std::isnan(start)) return;
                if (core.trace.ports.data()[i]) {
                    events_.push({start, i, core.number, false});
                    return;
                }
                issue(queue, i, start);
            }
        }
    }

    /// Returns when everything that an instruction waits for by itself has ended, or NaN.
    double after(Queue& queue, std::int64_t i) {
        Core& core = *queue.core;
        double start = queue.ready;
        const std::int64_t* starts = core.trace.after_start.data();
        for (std::int64_t e = starts[i]; e < starts[i + 1]; ++e) {
            const std::int64_t entry = core.trace.after.data()[e];
            const std::int64_t j = entry >= 0 ? entry : ~entry;
            const double time = entry >= 0 ? core.done[j] : core.start[j] + core.busy(j);
            if (std::isnan(time)) {
                std::int32_t& waiter = (entry >= 0 ? core.end_waiter : core.issue_waiter)[j];
                queue.next_waiter = waiter;
                waiter = queue.number;
                return UNKNOWN;
            }
            if (time > start) start = time;
        }
        return start;
    }

    /// Takes a token and goes on, or is woken with the next one.
    bool pass_wait(Queue& queue, std::int64_t i) {
        Core& core = *queue.core;
        if (std::isnan(core.start[i])) core.start[i] = queue.ready;
        const std::int32_t s = core.trace.semaphore.data()[i];
        if (core.taken[s] == core.tokens[s].size()) {
            core.token_waiter[s] = queue.number;
            return false;
        }
        queue.ready = std::max(queue.ready, core.tokens[s][core.taken[s]++]);
        core.end[i] = queue.ready;
        return true;
    }

    /// Begins an instruction that nothing holds any more.
    void issue(Queue& queue, std::int64_t i, double start) {
        Core& core = *queue.core;
        core.start[i] = start;
        const std::uint8_t kind = core.kind(i);
        if (kind == COMPUTE) {
            queue.ready = start + core.busy(i);
            const double end = start + core.trace.latency.data()[i];
            core.end[i] = end;
            core.done[i] = queue.computed = std::max(queue.computed, end);
            wake(core, core.issue_waiter[i]);
            wake(core, core.end_waiter[i]);
            return;
        }
        queue.ready = kind == GATHER ? start + core.trace.form.data()[i] : start;
        queue.pending.push_back(i);
        if (kind == GATHER || queue.pending.size() == 1) schedule_move(queue, i);
        wake(core, core.issue_waiter[i]);
    }

    void schedule_move(Queue& queue, std::int64_t i) {
        Core& core = *queue.core;
        double begin = core.start[i] + startup_;
        if (core.kind(i) == GATHER)
            begin = core.start[i] + core.trace.form.data()[i] + startup_;
        else if (begin < queue.moved)
            begin = queue.moved;
        events_.push({begin, i, core.number, true});
    }

    /// Issues an instruction if its ports are free, else asks again when they are.
    void ask_ports(Core& core, std::int64_t i, double now) {
        const std::uint8_t wanted = core.trace.ports.data()[i];
        double until = now;
        int latest = -1;
        for (std::size_t p = 0; p < PORTS.size(); ++p)
            if ((wanted & PORTS[p]) && core.port_until[p] > until) {
                until = core.port_until[p];
                latest = static_cast<int>(p);
            }
        if (latest >= 0) {
            core.wait_instruction.push_back(i);
            core.wait_port.push_back(PORTS[latest]);
            core.wait_holder.push_back(static_cast<std::uint8_t>(core.port_holder[latest]));
            core.wait_ns.push_back(until - now);
            events_.push({until, i, core.number, false});
            return;
        }
        Queue& queue = core.queues[core.trace.queue.data()[i]];
        issue(queue, i, now);
        for (std::size_t p = 0; p < PORTS.size(); ++p)
            if (wanted & PORTS[p]) {
                core.port_until[p] = queue.ready;
                core.port_holder[p] = queue.number;
            }
        ++queue.at;
        runnable_.push_back(&queue);
    }

    /// Moves the data of a transfer, then sees what waited for its end.
    void move(Core& core, std::int64_t i, double now) {
        Queue& queue = core.queues[core.trace.queue.data()[i]];
        core.move[i] = now;
        const double end = reserve(core, i, now);
        core.end[i] = end;
        queue.pending.pop_front();
        core.done[i] = queue.moved = std::max(queue.moved, end);
        wake(core, core.end_waiter[i]);
        while (!queue.pending.empty() && core.kind(queue.pending.front()) == SIGNAL) {
            const std::int64_t s = queue.pending.front();
            queue.pending.pop_front();
            fire(core, s, std::max(core.end[s], queue.moved));
        }
        if (!queue.pending.empty() && queue.is_dma) schedule_move(queue, queue.pending.front());
    }

    /// Takes what a transfer can use of the DMA engines and of DRAM; returns when it ends.
    double reserve(Core& core, std::int64_t i, double now) {
        const double work = core.busy(i), alone = core.trace.latency.data()[i];
        if (work <= 0.0) return now;
        const double fastest = alone > 0.0 ? std::min(1.0, work / alone) : 1.0;
        const double density = core.trace.dram.data()[i] / work;
        core.pool.begin(now);
        if (!dram_limits_ || density <= 0.0) return fill(core.pool, work, fastest);
        dram_.begin(now);
        return fill_both(core.pool, dram_, work, fastest, density);
    }

    /// Reaches a signal: it fires now if all ends before it are known, else with the last.
    void signal(Queue& queue, std::int64_t i) {
        Core& core = *queue.core;
        core.start[i] = queue.ready;
        const double known = std::max(queue.ready, queue.computed);
        if (queue.pending.empty()) {
            fire(core, i, std::max(known, queue.moved));
            return;
        }
        core.end[i] = known;
        queue.pending.push_back(i);
    }

    void fire(Core& core, std::int64_t i, double when) {
        core.end[i] = when;
        const std::int32_t s = core.trace.semaphore.data()[i];
        core.tokens[s].push_back(when);
        if (core.token_waiter[s] >= 0) runnable_.push_back(&core.queues[core.token_waiter[s]]);
        core.token_waiter[s] = -1;
    }

    void wake(Core& core, std::int32_t& first) {
        for (std::int32_t q = first; q >= 0; q = core.queues[q].next_waiter)
            runnable_.push_back(&core.queues[q]);
        first = -1;
    }

    double startup_;
    Profile dram_;
    bool dram_limits_;
    std::priority_queue<Event, std::vector<Event>, std::greater<Event>> events_;
    std::vector<Queue*> runnable_;
};

}  // namespace

std::vector<CoreTimes> run_timeline(const std::vector<const TraceColumns*>& cores,
                                    double dma_startup, double dram_rate, bool dram_limits) {
    Device device(cores, dma_startup, dram_rate, dram_limits);
    device.run();
    std::vector<CoreTimes> times;
    for (Core& core : device.cores) {
        std::vector<std::int64_t> ran;
        for (const Queue& queue : core.queues)
            ran.push_back(static_cast<std::int64_t>(queue.at));
        times.emplace_back(to_numpy(std::move(core.start)), to_numpy(std::move(core.move)),
                           to_numpy(std::move(core.end)), to_numpy(std::move(core.wait_instruction)),
                           to_numpy(std::move(core.wait_port)),
                           to_numpy(std::move(core.wait_holder)),
                           to_numpy(std::move(core.wait_ns)), to_numpy(std::move(ran)));
    }
    return times;
}

}  // namespace polystage

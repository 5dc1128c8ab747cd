#include "conflicts.h"

#include <algorithm>

namespace polystage {

namespace {

/// One pass over a trace in program order; see the Python twin for what the state means.
class Dependences {
public:
    Dependences(const Regions& regions, Input<std::int32_t> party, Accesses accesses,
                Input<std::int32_t> engine, Input<std::uint8_t> moves, std::int32_t gathers,
                bool across)
        : party_(party),
          accesses_(accesses),
          engine_(engine),
          moves_(moves),
          gathers_(gathers),
          parties_(static_cast<std::int32_t>(engine.size())),
          history_(regions, parties_),
          known_of_(parties_, 0),
          known_at_(party.size(), 0),
          knowledge_(2 * static_cast<std::size_t>(parties_), NEVER),
          ends_(parties_),
          issues_(parties_),
          matters_(parties_, std::vector<bool>(parties_)) {
        for (std::int32_t p = 0; p < parties_; ++p)
            for (std::int32_t o = 0; o < parties_; ++o)
                matters_[p][o] = is_own(p, o) ? !moves.data()[p] || p == gathers : across;
    }

    void find(const std::int64_t* certain) {
        const auto n = static_cast<std::int64_t>(party_.size());
        start.reserve(n + 1);
        start.push_back(0);
        for (std::int64_t i = 0; i < n; ++i) {
            if (party_.data()[i] >= 0) instruction(i, party_.data()[i], certain[i]);
            start.push_back(static_cast<std::int64_t>(after.size()));
        }
    }

    std::vector<std::int64_t> start, after;

private:
    bool is_own(std::int32_t party, std::int32_t other) const {
        return engine_.data()[party] == engine_.data()[other];
    }

    std::int64_t* ended(std::size_t version) { return &knowledge_[version * 2 * parties_]; }

    void instruction(std::int64_t i, std::int32_t party, std::int64_t certain) {
        const std::int64_t* known = ended(known_of_[party]);
        std::copy(known, known + parties_, ends_.begin());
        std::copy(known + parties_, known + 2 * parties_, issues_.begin());
        ends_[party] = std::max(ends_[party], certain);
        const std::int64_t begin = accesses_.start.data()[i], end = accesses_.start.data()[i + 1];
        for (std::int64_t a = begin; a < end; ++a)
            look(party, accesses_.region.data()[a], accesses_.way.data()[a]);
        const std::size_t first = after.size();
        collect(party, certain);
        if (after.size() > first) learn(party, first);
        known_at_[i] = known_of_[party];
        for (std::int64_t a = begin; a < end; ++a)
            history_.record(party, accesses_.way.data()[a], accesses_.region.data()[a], i, a);
    }

    /// Raises what must have ended, and what must have been issued, for an access.
    void look(std::int32_t party, std::int32_t region, int way) {
        for (const auto& [other, their_way] : history_.accessors(region)) {
            if (!matters_[party][other] || (way == READ && their_way == READ)) continue;
            if (is_own(party, other) &&
                (their_way == READ || (way == ARRAY_WRITE && their_way == ARRAY_WRITE)))
                continue;
            std::int64_t& end = ends_[other];
            std::int64_t& issue = issues_[other];
            if (their_way == READ && !moves_.data()[other])
                issue = history_.latest(other, READ, region, std::max(issue, end));
            else
                end = history_.latest(other, their_way, region, end);
        }
    }

    void collect(std::int32_t party, std::int64_t certain) {
        const std::int64_t* known = ended(known_of_[party]);
        for (std::int32_t o = 0; o < parties_; ++o)
            if (ends_[o] > known[o] && !(o == party && ends_[o] == certain))
                after.push_back(ends_[o]);
        for (std::int32_t o = 0; o < parties_; ++o)
            if (issues_[o] > std::max(known[parties_ + o], ends_[o])) after.push_back(~issues_[o]);
    }

    /// Takes in what those that are waited for knew, in a new version of the knowledge.
    void learn(std::int32_t party, std::size_t first) {
        const std::size_t width = 2 * static_cast<std::size_t>(parties_);
        const std::size_t version = knowledge_.size() / width;
        knowledge_.resize(knowledge_.size() + width);
        std::int64_t* mine = ended(version);
        std::copy_n(ended(known_of_[party]), width, mine);
        for (std::size_t e = first; e < after.size(); ++e) {
            const bool until_end = after[e] >= 0;
            const std::int64_t j = until_end ? after[e] : ~after[e];
            const std::int64_t* theirs = ended(known_at_[j]);
            for (std::size_t k = 0; k < width; ++k) mine[k] = std::max(mine[k], theirs[k]);
            std::int64_t& last = mine[party_.data()[j] + (until_end ? 0 : parties_)];
            last = std::max(last, j);
        }
        known_of_[party] = version;
    }

    Input<std::int32_t> party_;
    Accesses accesses_;
    Input<std::int32_t> engine_;
    Input<std::uint8_t> moves_;
    std::int32_t gathers_, parties_;
    History history_;
    std::vector<std::size_t> known_of_, known_at_;
    std::vector<std::int64_t> knowledge_;
    std::vector<std::int64_t> ends_, issues_;
    std::vector<std::vector<bool>> matters_;
};

}  // namespace

std::pair<Output<std::int64_t>, Output<std::int64_t>> dependences(
    const Regions& regions, Input<std::int32_t> party, Input<std::int64_t> certain,
    Input<std::int64_t> start, Input<std::int32_t> region, Input<std::uint8_t> way,
    Input<std::int32_t> engine, Input<std::uint8_t> moves, std::int32_t gathers, bool across) {
    const Accesses accesses{start, region, way};
    const std::size_t n = party.size();
    accesses.check(n, regions);
    check_size(certain, n, "one certain end per instruction");
    check_size(moves, engine.size(), "one entry per party");
    check_range(party, -1, static_cast<std::int64_t>(engine.size()), "party");
    Dependences pass(regions, party, accesses, engine, moves, gathers, across);
    pass.find(certain.data());
    return {to_numpy(std::move(pass.start)), to_numpy(std::move(pass.after))};
}

}  // namespace polystage

package reconcile

import (
	"slices"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// The law of slow stores. Every host says with its heartbeats how long it waited for each store:
// for appends and reads, of stores here and there. Of each host's word the stores are held
// against one another: a host that is slow itself, or a network, or a load that all bear, makes
// none of them slow.
//
//   - A host finds a store slow when its mean over a window is above slowFactor times the median of
//     the others and above slowMin, and fine below half of both. In between its word is as before.
//   - A store is slow when more hosts find it slow than fine, each of them three times in a row.
//   - It is not slow any more when no host found it slow for slowProbation, twice as long each time it
//     comes again within slowMemory, up to slowProbationMax. So a store that comes and goes stays out.
//   - At most a third of the stores is left out of what is new: if more are slow, it is the cluster that is.
const (
	slowFactor       = 5
	slowMin          = 30 * time.Millisecond
	slowWindow       = 2 * time.Second
	slowSamplesMin   = 8
	slowStreak       = 3
	slowVoteLife     = 4 * slowWindow
	slowProbation    = 15 * time.Second
	slowProbationMax = 10 * time.Minute
	slowMemory       = time.Hour
	slowShare        = 3 // one in so many may be left out
)

// slowness judges stores by what hosts wait for them.
type slowness struct {
	windows map[id.Host]*waitWindow
	stores  map[id.Store]*slowLife
}

// waitWindow gathers one host's waits until there is enough to judge.
type waitWindow struct {
	began time.Duration
	waits map[id.Store]cluster.StoreWait
}

// slowLife is what is known of one store.
type slowLife struct {
	votes    map[id.Host]slowVote
	slow     bool
	lastSlow time.Duration // when a host found it slow last
	times    int           // how often it became slow lately
	mean     time.Duration // as it was found slow
	others   time.Duration
}

type slowVote struct {
	at     time.Duration
	slow   bool
	streak int // windows in a row with this word
}

func newSlowness() *slowness {
	return &slowness{windows: make(map[id.Host]*waitWindow), stores: make(map[id.Store]*slowLife)}
}

// observe takes what a host waited since its last word.
func (x *slowness) observe(now time.Duration, by id.Host, waits []cluster.StoreWait) {
	w := x.windows[by]
	if w == nil || now-w.began > 2*slowWindow { // none, or from before a pause
		w = &waitWindow{began: now, waits: make(map[id.Store]cluster.StoreWait)}
		x.windows[by] = w
	}
	for _, s := range waits {
		sum := w.waits[s.Store]
		w.waits[s.Store] = cluster.StoreWait{Store: s.Store, Count: sum.Count + s.Count, Total: sum.Total + s.Total}
	}
	if now-w.began >= slowWindow {
		delete(x.windows, by)
		x.judge(now, by, w)
	}
}

// judge holds the stores of one host's window against one another.
func (x *slowness) judge(now time.Duration, by id.Host, w *waitWindow) {
	type mean struct {
		store id.Store
		wait  time.Duration
	}
	var means []mean
	for _, s := range w.waits {
		if s.Count >= slowSamplesMin {
			means = append(means, mean{s.Store, s.Total / time.Duration(s.Count)})
		}
	}
	if len(means) < 3 {
		return
	}
	slices.SortFunc(means, func(a, b mean) int { return int(a.wait - b.wait) })
	for i, m := range means {
		middle := (len(means) - 1) / 2 // of the others, which are one fewer
		if middle >= i {
			middle++
		}
		others := means[min(middle, len(means)-1)].wait
		switch {
		case m.wait > max(slowMin, slowFactor*others):
			x.vote(now, by, m.store, true)
			s := x.stores[m.store]
			s.lastSlow, s.mean, s.others = now, m.wait, others
		case m.wait <= max(slowMin, slowFactor*others)/2:
			x.vote(now, by, m.store, false)
		}
	}
}

func (x *slowness) vote(now time.Duration, by id.Host, store id.Store, slow bool) {
	s := x.stores[store]
	if s == nil {
		s = &slowLife{votes: make(map[id.Host]slowVote)}
		x.stores[store] = s
	}
	v := slowVote{at: now, slow: slow, streak: 1}
	if last := s.votes[by]; last.slow == slow && now-last.at <= slowVoteLife {
		v.streak = last.streak + 1
	}
	s.votes[by] = v
}

// step makes up its mind about every store.
func (x *slowness) step(now time.Duration) {
	for store, s := range x.stores {
		slow, fine := 0, 0
		for by, v := range s.votes {
			switch {
			case now-v.at > slowVoteLife:
				delete(s.votes, by)
			case v.slow && v.streak >= slowStreak:
				slow++
			case !v.slow:
				fine++
			}
		}
		switch {
		case !s.slow && slow > fine:
			s.slow = true
			s.times++
		case s.slow && now-s.lastSlow >= s.probation():
			s.slow = false
		case !s.slow && s.times > 0 && now-s.lastSlow >= slowMemory:
			s.times = 0
		case !s.slow && s.times == 0 && len(s.votes) == 0:
			delete(x.stores, store)
		}
	}
}

// probation is how long nobody may find the store slow before it is in again.
func (s *slowLife) probation() time.Duration {
	return min(slowProbation<<min(s.times-1, 10), slowProbationMax)
}

// Slow tells of a store that it is slow: what hosts wait for it, and for others.
func (l *Liveness) Slow(s id.Store) (mean, others time.Duration, slow bool) {
	x := l.slow.stores[s]
	if x == nil || !x.slow {
		return 0, 0, false
	}
	return x.mean, x.others, true
}

// leaveOut marks the slow stores of a topology, if the others are enough.
func (l *Liveness) leaveOut(now time.Duration, stores []cluster.Store) {
	l.slow.step(now)
	var slow []int
	up := 0
	for i := range stores {
		if stores[i].State != cluster.StoreUp {
			continue
		}
		up++
		if _, _, is := l.Slow(stores[i].Store); is {
			slow = append(slow, i)
		}
	}
	if len(slow) > up/slowShare || up-len(slow) < 3 {
		return
	}
	for _, i := range slow {
		stores[i].Slow = true
	}
}

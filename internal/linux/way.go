package linux

import "time"

// How often MakeWay looks who uses the processors.
const (
	wayRound  = 100 * time.Millisecond
	restRound = 800 * time.Millisecond // while they have little to do
)

// MakeWay has, until stop is closed, those cgroups below all that use a processor for
// long make way for those that want one for short: the kernel lets them run whenever
// none of the others wants to, and takes the processor from them at once when one does.
// running returns the cgroups that may use any. It reads one file for all of them as long as the processors have little
// to do, and then one for each. Before Linux 5.15 it returns at once.
func MakeWay(stop <-chan struct{}, all *Cgroup, running func() []*Cgroup) {
	if !all.canIdle() {
		return
	}
	var w way
	for round, at, before := wayRound, time.Now(), all.CPUTime(); ; {
		select {
		case <-stop:
			return
		case <-time.After(round):
		}
		took, used := time.Since(at), all.CPUTime()-before
		at, before = at.Add(took), before+used
		if w.givers == 0 && used < least(took) {
			w = way{}
			round = min(2*round, restRound)
			continue
		}
		round = wayRound
		w = w.look(running(), took)
	}
}

// way is what is known of cgroups at the end of a round.
type way struct {
	accounts map[*Cgroup]account
	givers   int
}

type account struct {
	ever, used time.Duration // of processors, the latter in the round
	gives      bool          // it makes way
}

// look has each cgroup make way or not for what it used in the round that ends now.
func (w way) look(running []*Cgroup, round time.Duration) way {
	now := way{accounts: make(map[*Cgroup]account, len(running))}
	var users, all time.Duration
	for _, g := range running {
		a, known := w.accounts[g]
		delete(w.accounts, g)
		ever := g.CPUTime()
		if a.used = ever - a.ever; !known {
			a.used = 0
		}
		if a.used >= least(round) {
			users++
			all += a.used
		}
		now.accounts[g] = account{ever, a.used, a.gives}
	}
	for g, a := range now.accounts {
		gives := a.used >= long(all, users, round) || a.gives && a.used >= least(round)
		if gives != a.gives && g.idle(gives) != nil { // it has ended
			delete(now.accounts, g)
			continue
		}
		now.accounts[g] = account{a.ever, a.used, gives}
		if gives {
			now.givers++
		}
	}
	for g, a := range w.accounts { // those that stand still now, and those that have ended
		if a.gives {
			g.idle(false)
		}
	}
	return now
}

// long is how long a cgroup has used processors that begins to make way: half of a
// round, or half of what those who used any had in the mean, if that is less.
func long(all, users, round time.Duration) time.Duration {
	return max(least(round), min(round, all/max(1, users))/2)
}

// least is how long a cgroup has used processors that is looked at. One that makes way
// and ran for less has ended its work, or the others leave it nothing: then it gets its
// share as they do, until it has used a processor for long again.
func least(round time.Duration) time.Duration { return round / 20 }

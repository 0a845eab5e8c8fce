package linux

import "time"

// How often MakeWay looks who uses the processors.
const (
	wayRound  = 100 * time.Millisecond
	restRound = 800 * time.Millisecond // while they have little to do
)

// MakeWay has, until stop is closed, those cgroups below all that use a processor for
// long make way for those that want one for short: the kernel lets them run whenever none of the others wants to,
// and takes the processor from them at once when one does. running returns the cgroups that
// may use any. It reads one file for all of them as long as the processors have little
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
		if w.givers == 0 && !long(used, took) { // nobody can have used so much
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
	used  time.Duration // of processors, ever
	gives bool          // it makes way
}

// look has each cgroup make way or not for what it used in the round that ends now.
func (w way) look(running []*Cgroup, round time.Duration) way {
	now := way{accounts: make(map[*Cgroup]account, len(running))}
	for _, g := range running {
		a, known := w.accounts[g]
		used := g.CPUTime()
		gives := known && makesWay(a.gives, used-a.used, round)
		if gives != a.gives && g.idle(gives) != nil { // it has ended
			continue
		}
		now.accounts[g] = account{used, gives}
		if gives {
			now.givers++
		}
		delete(w.accounts, g)
	}
	for g, a := range w.accounts { // those that stand still now, and those that have ended
		if a.gives {
			g.idle(false)
		}
	}
	return now
}

// makesWay decides whether a cgroup is to make way, which does so already or not and
// has used processors for so long in a round. One that ran for a small part of it only
// has ended its work, or the others leave it nothing: then it gets its share as they
// do, until it has used a processor for long again.
func makesWay(does bool, used, round time.Duration) bool {
	if does {
		return used >= round/10
	}
	return long(used, round)
}

// long is half a processor.
func long(used, round time.Duration) bool { return used >= round/2 }

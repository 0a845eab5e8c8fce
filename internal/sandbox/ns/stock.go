package ns

import (
	"errors"
	"runtime"
	"strconv"
	"sync"
	"time"

	"hob/faas"
	"hob/internal/network"
	"hob/internal/sandbox"
)

// Bounds of a stock.
const (
	mostBlanks  = 1024            // whatever the configuration says: each is a thread
	stockMemory = 64 << 20        // bytes that all its blanks may hold
	keptUnused  = 2 * time.Minute // how long blanks are made for what is not started any more
	sweepEvery  = 5 * time.Second

	shortOfSlots = 250 * time.Millisecond // before one is asked for again
)

// A stock keeps prepared blanks for what was started lately. How many it keeps
// for each follows the rate of starts: a start that finds none raises the number,
// and blanks that nobody needed between two sweeps lower it. If there is no room,
// what was started least lately loses a blank first.
type stock struct {
	d      *Driver
	most   int           // blanks at once; 0: there are none, not even bare ones
	memory int64         // bytes that they may hold
	wake   chan struct{} // says that a blank may be missing

	mu    sync.Mutex
	kinds map[string]*kind // guarded by mu, as all below
	count int              // blanks, with those that are being prepared
	bytes int64            // that they hold
	short time.Time        // until when no slot of the router is asked for
}

// A kind is one sort of sandbox: the same in all but ID, arguments and
// environment. It is guarded by stock.mu.
type kind struct {
	spec    sandbox.Spec // without those
	ready   []*prepared  // the latest last
	depth   int          // blanks that it should have
	low     int          // fewest that were ready since the last sweep
	used    time.Time
	failing bool // the last one could not be prepared
}

func (s *stock) open(d *Driver) {
	s.d = d
	s.most = d.cfg.Blanks
	if s.most == 0 {
		s.most = 16 * runtime.GOMAXPROCS(0)
	}
	s.most = min(max(s.most, 0), mostBlanks)
	s.memory = stockMemory
	s.wake = make(chan struct{}, 1)
	s.kinds = make(map[string]*kind)
}

// key names the kind of spec, by all its fields but those that a blank does not
// know. It is made for each start, and so not by package fmt.
func (s *stock) key(spec sandbox.Spec) string {
	if s.most == 0 {
		return ""
	}
	key := make([]byte, 0, 512)
	text := func(list ...string) {
		key = append(strconv.AppendInt(key, int64(len(list)), 10), ':')
		for _, s := range list {
			key = append(append(strconv.AppendInt(key, int64(len(s)), 10), ':'), s...)
		}
	}
	number := func(n int64) { key = append(strconv.AppendInt(key, n, 10), ';') }
	flag := func(b bool) { key = append(strconv.AppendBool(key, b), ';') }
	text(spec.Hostname, spec.Root.Key, spec.Dir, spec.Sockets, spec.Listen)
	text(spec.Root.Layers...)
	text(spec.Volumes...)
	number(int64(spec.User.UID))
	number(int64(spec.User.GID))
	number(int64(len(spec.User.Groups)))
	for _, g := range spec.User.Groups {
		number(int64(g))
	}
	number(int64(spec.Memory))
	number(int64(spec.CPU))
	number(int64(spec.PIDs))
	number(int64(spec.Files))
	number(int64(spec.LockedMemory))
	number(int64(spec.PendingSignals))
	number(int64(spec.MessageQueues))
	number(int64(spec.TmpInodes))
	number(int64(spec.TmpSize))
	flag(spec.Writable)
	text(spec.Devices...)
	text(string(spec.Network.Mode))
	number(int64(len(spec.Network.Rules)))
	for _, r := range spec.Network.Rules {
		text(r.String())
	}
	return string(key)
}

// take takes the latest prepared blank of a kind. Nil: there is none.
func (s *stock) take(key string) *prepared {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kinds[key]
	if k == nil || len(k.ready) == 0 {
		return nil
	}
	defer s.nudge()
	return s.remove(k, len(k.ready)-1)
}

// nudge wakes the refill: a blank may be missing.
func (s *stock) nudge() {
	select {
	case s.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// remove takes a blank out of the stock. The caller holds mu.
func (s *stock) remove(k *kind, i int) *prepared {
	p := k.ready[i]
	k.ready = append(k.ready[:i:i], k.ready[i+1:]...)
	k.low = min(k.low, len(k.ready))
	s.count--
	s.bytes -= p.memory
	return p
}

// started tells the stock of a start that worked.
func (s *stock) started(key string, spec sandbox.Spec, from faas.Start) {
	if s.most == 0 {
		return
	}
	s.mu.Lock()
	k := s.kinds[key]
	switch {
	case k == nil:
		spec.ID, spec.Args, spec.Env = "", nil, nil
		k = &kind{spec: spec, depth: 1}
		s.kinds[key] = k
	case from != faas.StartPrepared:
		k.depth = min(k.depth+1, s.most)
	}
	k.used, k.failing = time.Now(), false
	s.mu.Unlock()
	s.nudge()
}

// wanted returns how many blanks all kinds should have, as far as there is room.
func (s *stock) wanted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, k := range s.kinds {
		n += k.depth
	}
	return max(min(n, s.most), s.count)
}

// held returns how many blanks there are, with those that are being prepared.
func (s *stock) held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// refill prepares blanks until the driver closes, and ends them then.
func (s *stock) refill() {
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	defer s.empty()
	for {
		k, old, urgent := s.missing()
		var rest <-chan time.Time
		var wake <-chan struct{}
		switch {
		case k == nil:
			wake = s.wake
		case !urgent:
			rest = time.After(manners) // a sandbox of this kind is starting
		default:
			rest = time.After(0)
		}
		select {
		case <-s.d.closing:
			return
		case now := <-sweep.C:
			s.sweep(now)
			s.d.trim()
			s.d.removeBusy()
			continue
		case <-wake:
			continue
		case <-rest:
		}
		at := s.d.spare()
		if at == nil {
			select {
			case <-s.d.closing:
				return
			case <-time.After(time.Millisecond):
			}
			continue
		}
		if old != nil {
			s.drop(old)
		}
		s.add(k, at)
	}
}

// missing returns a kind that lacks a blank: the one that was started last. Unless
// there is room, a kind that was not started for longer loses one, else k is nil.
func (s *stock) missing() (k, old *kind, urgent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	short := time.Now().Before(s.short)
	for _, c := range s.kinds {
		if len(c.ready) < c.depth && !c.failing && !(short && c.spec.OwnDevice()) && (k == nil || c.used.After(k.used)) {
			k = c
		}
	}
	if k == nil {
		return nil, nil, false
	}
	if s.count >= s.most || s.bytes >= s.memory {
		for _, c := range s.kinds {
			if len(c.ready) > 0 && c.used.Before(k.used) && (old == nil || c.used.Before(old.used)) {
				old = c
			}
		}
		if old == nil {
			return nil, nil, false
		}
	}
	return k, old, len(k.ready) == 0 && k.depth >= hurried
}

// hurried is the depth from which on a stock that is empty is not filled with
// manners: starts come faster than that.
const hurried = 4

// add prepares a blank of kind k in a berth. One that cannot be prepared is not
// tried again before the next start of this kind, which says why. If no slot can be
// spared, those that have one wait a little, and others go on.
func (s *stock) add(k *kind, at *berth) {
	s.mu.Lock()
	s.count++
	s.mu.Unlock()
	s.d.replace()
	p, err := s.d.prepareBlank(at, k.spec)
	s.mu.Lock()
	switch {
	case errors.Is(err, network.ErrFew):
		s.count--
		s.short = time.Now().Add(shortOfSlots)
		time.AfterFunc(shortOfSlots, s.nudge)
	case err != nil:
		s.count--
		k.failing = true
		s.d.cfg.Log.Debug("a blank could not be prepared", "err", err)
	case k.depth == 0: // it was swept out meanwhile
		s.count--
		defer p.end()
	default:
		k.ready = append(k.ready, p)
		s.bytes += p.memory
	}
	s.mu.Unlock()
}

// drop ends the oldest blank of a kind.
func (s *stock) drop(k *kind) {
	s.mu.Lock()
	var p *prepared
	if len(k.ready) > 0 {
		p = s.remove(k, 0)
	}
	s.mu.Unlock()
	if p != nil {
		p.end()
	}
}

// empty ends all blanks.
func (s *stock) empty() {
	s.mu.Lock()
	for _, k := range s.kinds {
		k.used = time.Time{}
	}
	s.mu.Unlock()
	s.sweep(time.Now())
}

// sweep ends the blanks that are not needed any more, and those that are dead.
func (s *stock) sweep(now time.Time) {
	var ended []*prepared
	s.mu.Lock()
	for key, k := range s.kinds {
		switch {
		case now.Sub(k.used) > keptUnused:
			k.depth = 0
			delete(s.kinds, key)
		case k.low > 0:
			k.depth = max(1, k.depth-(k.low+1)/2)
		}
		for i := len(k.ready) - 1; i >= 0; i-- {
			if len(k.ready) > k.depth || len(k.ready[i].result) > 0 {
				ended = append(ended, s.remove(k, i))
			}
		}
		k.low = len(k.ready)
	}
	s.mu.Unlock()
	for _, p := range ended {
		p.end()
	}
}

// spare returns a berth for a blank, if starts can do without it.
func (d *Driver) spare() *berth {
	if d.waiting.Load() > 0 || len(d.ready) <= d.base/4 {
		return nil
	}
	select {
	case at := <-d.ready:
		return at
	default:
		return nil
	}
}

package deliver

import (
	"net/url"
	"slices"
	"strings"

	"hob/internal/store"
)

// Sizes of a line.
const (
	leastLook = 64     // deliveries asked for beyond those that are known
	mostKnown = 10_000 // above it the store keeps the rest; about 3 MB
)

// A line decides whose turn it is: it holds the deliveries that are due or under
// way, by destination, so that none of these waits for another. It knows no clock
// and no store.
type line struct {
	known   map[string]bool // IDs of what waits, is tried or is written down
	hosts   []*host         // with something that waits or is tried; the first is served first
	down    map[string]bool // names of hosts that did not answer the last time
	running int
	full    bool // the store may have more that is due
	asked   int
}

type host struct {
	name    string
	waiting []store.Delivery
	running int
}

func newLine() *line { return &line{known: make(map[string]bool), down: make(map[string]bool)} }

// want is how many deliveries to ask the store for: the known ones are among them.
// It grows with these, so that a long line is not read again for each of its parts.
func (l *line) want() int {
	l.asked = len(l.known) + max(leastLook, min(len(l.known), mostKnown))
	return l.asked
}

// add takes what the store has, and leaves out what is known.
func (l *line) add(due []store.Delivery) {
	l.full = len(due) >= l.asked
	for _, one := range due {
		if l.known[one.ID] || len(l.known) >= mostKnown {
			continue
		}
		l.known[one.ID] = true
		h := l.host(hostOf(one.Target))
		h.waiting = append(h.waiting, one)
	}
}

// start returns the next delivery to try, and false if there is none now.
func (l *line) start() (store.Delivery, bool) {
	if l.running >= atOnce {
		return store.Delivery{}, false
	}
	for i, h := range l.hosts {
		most := atOncePer
		if l.down[h.name] {
			most = 1
		}
		if len(h.waiting) == 0 || h.running >= most {
			continue
		}
		one := h.waiting[0]
		h.waiting = h.waiting[1:]
		h.running++
		l.running++
		l.hosts = append(slices.Delete(l.hosts, i, i+1), h)
		return one, true
	}
	return store.Delivery{}, false
}

// more reports whether the store is to be asked again because all that is known
// has to wait for its destination. It is asked after start.
func (l *line) more() bool {
	return l.full && l.running < atOnce && len(l.known) < mostKnown
}

// end takes note of a try that is over. Those returned wait for the same
// destination, which does not answer: the try counts as theirs.
func (l *line) end(e end) (behind []store.Delivery) {
	delete(l.known, e.delivery.ID)
	if !e.own {
		return nil
	}
	name := hostOf(e.delivery.Target)
	h := l.host(name)
	h.running--
	l.running--
	if e.try.down {
		l.down[name] = true
		behind, h.waiting = h.waiting, nil
	} else {
		delete(l.down, name)
	}
	if h.running == 0 && len(h.waiting) == 0 {
		l.hosts = slices.DeleteFunc(l.hosts, func(one *host) bool { return one == h })
	}
	return behind
}

func (l *line) host(name string) *host {
	for _, h := range l.hosts {
		if h.name == name {
			return h
		}
	}
	h := &host{name: name}
	l.hosts = append(l.hosts, h)
	return h
}

// hostOf is what deliveries to a target wait for: its host, or the function.
func hostOf(target string) string {
	if u, err := url.Parse(target); err == nil && u.Host != "" {
		return strings.ToLower(u.Host)
	}
	return target
}

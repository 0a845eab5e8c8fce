package network

import (
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// cache keeps answers for as long as they are good. Each counts against the slot that
// asked for it first: beyond a slot's share any one of its is forgotten, and beyond
// the bound of the whole cache any one.
type cache struct {
	mu      sync.Mutex // guards what follows
	entries map[dnsmessage.Question]*cached
	shares  map[*Slot]*share
	size    int // in bytes
}

type share struct {
	entries map[*cached]bool
	size    int
}

type cached struct {
	question dnsmessage.Question
	of       *Slot
	packed   []byte // a message with the code and the answers: unpacked it is many times as large
	at       time.Time
	until    time.Time
}

// In bytes, but for the records.
const (
	maxCache     = 8 << 20
	maxShare     = 1 << 20          // of one slot
	maxKept      = 4 << 10          // a longer answer is not kept
	maxRecords   = 64               // nor one with more records
	entrySize    = 1 << 10          // of an entry besides its answer, about
	negativeLife = 10 * time.Second // of an answer without a record of the type
)

func (e *cached) size() int { return entrySize + len(e.packed) }

// get returns the answers to a question, which are the caller's.
func (c *cache) get(q dnsmessage.Question) (code dnsmessage.RCode, answers []dnsmessage.Resource, ok bool) {
	now := time.Now()
	c.mu.Lock()
	e := c.entries[q]
	if e != nil && now.After(e.until) {
		c.forget(e)
		e = nil
	}
	c.mu.Unlock()
	if e == nil {
		return 0, nil, false
	}
	var m dnsmessage.Message
	if m.Unpack(e.packed) != nil {
		return 0, nil, false
	}
	age := uint32(now.Sub(e.at) / time.Second)
	for i := range m.Answers {
		h := &m.Answers[i].Header
		h.TTL -= min(age, h.TTL)
	}
	return m.RCode, m.Answers, true
}

// put keeps what was answered to a slot, unless it is large or good for no time.
func (c *cache) put(s *Slot, q dnsmessage.Question, code dnsmessage.RCode, answers []dnsmessage.Resource) {
	life, positive := longestLife, false
	for _, a := range answers {
		life = min(life, time.Duration(a.Header.TTL)*time.Second)
		positive = positive || a.Header.Type == q.Type
	}
	if !positive {
		life = min(life, negativeLife)
	}
	if life == 0 || len(answers) > maxRecords {
		return
	}
	packed, err := (&dnsmessage.Message{Header: dnsmessage.Header{RCode: code}, Answers: answers}).Pack()
	if err != nil || len(packed) > maxKept {
		return
	}
	now := time.Now()
	e := &cached{q, s, packed, now, now.Add(life)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.entries[q]; old != nil {
		c.forget(old)
	}
	if sh := c.shares[s]; sh != nil {
		for other := range sh.entries {
			if sh.size+e.size() <= maxShare {
				break
			}
			c.forget(other)
		}
	}
	for _, other := range c.entries {
		if c.size+e.size() <= maxCache {
			break
		}
		c.forget(other)
	}
	if c.entries == nil {
		c.entries, c.shares = map[dnsmessage.Question]*cached{}, map[*Slot]*share{}
	}
	sh := c.shares[s]
	if sh == nil {
		sh = &share{entries: map[*cached]bool{}}
		c.shares[s] = sh
	}
	c.entries[q], sh.entries[e] = e, true
	c.size, sh.size = c.size+e.size(), sh.size+e.size()
}

// forget drops an entry. Precondition: c.mu is held.
func (c *cache) forget(e *cached) {
	sh := c.shares[e.of]
	delete(c.entries, e.question)
	delete(sh.entries, e)
	c.size, sh.size = c.size-e.size(), sh.size-e.size()
	if len(sh.entries) == 0 {
		delete(c.shares, e.of)
	}
}

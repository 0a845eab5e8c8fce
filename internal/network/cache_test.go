package network

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func question(name string) dnsmessage.Question {
	return dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeTXT, Class: dnsmessage.ClassINET}
}

// texts are count records of size bytes each, and some more.
func texts(q dnsmessage.Question, count, size int, ttl uint32) (list []dnsmessage.Resource) {
	var words []string
	for ; size > 0; size -= 200 {
		words = append(words, strings.Repeat("x", min(size, 200)))
	}
	for range count {
		h := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: ttl}
		list = append(list, dnsmessage.Resource{Header: h, Body: &dnsmessage.TXTResource{TXT: words}})
	}
	return list
}

func TestLargeAnswersAreNotKept(t *testing.T) {
	var c cache
	for _, k := range []struct {
		count, size int
		kept        bool
	}{
		{1, 3800, true}, {1, 4200, false}, {64, 10, true}, {65, 10, false}, {20, 1000, false},
	} {
		q := question(fmt.Sprintf("%d-%d.example.", k.count, k.size))
		c.put(new(Slot), q, 0, texts(q, k.count, k.size, 60))
		if _, answers, ok := c.get(q); ok != k.kept || ok && len(answers) != k.count {
			t.Errorf("%d records of %d bytes: kept %v, %d records; want %v", k.count, k.size, ok, len(answers), k.kept)
		}
	}
}

func TestSlotThatFillsTheCacheLosesItsOwnAnswers(t *testing.T) {
	var c cache
	good, bad := new(Slot), new(Slot)
	for i := range 100 {
		q := question(fmt.Sprintf("%d.good.", i))
		c.put(good, q, 0, texts(q, 1, 100, 60))
	}
	for i := range 3000 {
		q := question(fmt.Sprintf("%d.bad.", i))
		c.put(bad, q, 0, texts(q, 1, 3000, 60))
	}
	for i := range 100 {
		if _, _, ok := c.get(question(fmt.Sprintf("%d.good.", i))); !ok {
			t.Fatalf("answer %d of another is forgotten", i)
		}
	}
	if size := c.shares[bad].size; size > maxShare || size < maxShare-maxKept-entrySize {
		t.Errorf("%d bytes of one slot are kept; want about %d", size, maxShare)
	}
}

func TestCacheIsBounded(t *testing.T) {
	var c cache
	for i := range 20 {
		s := new(Slot)
		for k := range 300 {
			q := question(fmt.Sprintf("%d.%d.example.", i, k))
			c.put(s, q, 0, texts(q, 1, 3000, 60))
		}
	}
	size := 0
	for _, e := range c.entries {
		size += e.size()
	}
	if size != c.size || size > maxCache || size < maxCache-maxKept-entrySize {
		t.Errorf("%d bytes are kept, %d are counted; want about %d", size, c.size, maxCache)
	}
	for _, e := range c.entries {
		c.forget(e)
	}
	if c.size != 0 || len(c.shares) != 0 {
		t.Errorf("of nothing %d bytes and %d shares are left", c.size, len(c.shares))
	}
}

func TestAnswersAreKeptAsLongAsTheyAreGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c cache
		s, long, none, never := new(Slot), question("long.example."), question("none.example."), question("never.example.")
		c.put(s, long, 0, texts(long, 1, 10, 60))
		c.put(s, none, dnsmessage.RCodeNameError, nil)
		c.put(s, never, 0, texts(never, 1, 10, 0))
		if _, _, ok := c.get(never); ok {
			t.Error("an answer that is good for no time is kept")
		}
		time.Sleep(negativeLife)
		if code, _, ok := c.get(none); !ok || code != dnsmessage.RCodeNameError {
			t.Errorf("that there is no such name: %v, %v", code, ok)
		}
		time.Sleep(30 * time.Second)
		if _, _, ok := c.get(none); ok {
			t.Error("that there was no such name is believed still")
		}
		if _, answers, ok := c.get(long); !ok || answers[0].Header.TTL != 20 {
			t.Errorf("after 40 of 60 seconds: %v, %v", answers, ok)
		}
		time.Sleep(21 * time.Second)
		if _, _, ok := c.get(long); ok || c.size != 0 {
			t.Errorf("after 61 of 60 seconds: %v, %d bytes", ok, c.size)
		}
	})
}

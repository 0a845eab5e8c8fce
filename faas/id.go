package faas

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sync"
	"time"
)

// ids hands out identifiers. One generator for the process keeps them strictly
// increasing even within a millisecond.
var ids struct {
	mu   sync.Mutex
	last [16]byte // guarded by mu
}

// NewID returns a new identifier of 26 characters: a ULID (48 bits of Unix
// milliseconds, 80 random bits, Crockford's base 32, upper case). IDs of one
// process sort in the order they were made; IDs of several, by millisecond.
func NewID() string {
	var id [16]byte
	binary.BigEndian.PutUint64(id[:8], uint64(time.Now().UnixMilli())<<16)
	rand.Read(id[6:])
	ids.mu.Lock()
	if string(id[:6]) <= string(ids.last[:6]) { // same millisecond, or the clock went back
		id = ids.last
		for i := len(id) - 1; i >= 0; i-- {
			id[i]++
			if id[i] != 0 {
				break
			}
		}
	}
	ids.last = id
	ids.mu.Unlock()
	return encodeID(id)
}

// FirstID is the first of all IDs that are made in the millisecond of t, of the years
// 1970 to 10000: those of an earlier one sort before it.
func FirstID(t time.Time) string {
	var id [16]byte
	sec := min(max(t.Unix(), 0), 1<<38) // so that their milliseconds have 48 bits
	binary.BigEndian.PutUint64(id[:8], uint64(sec*1000+int64(t.Nanosecond()/1e6))<<16)
	return encodeID(id)
}

// NewUUID returns 122 random bits as a UUID of version 4: 36 characters, lower
// case. Nobody guesses one.
func NewUUID() string {
	var id [16]byte
	rand.Read(id[:])
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// IDTime returns the time at which id was made, and false if id is no identifier.
func IDTime(id string) (time.Time, bool) {
	if len(id) != 26 {
		return time.Time{}, false
	}
	var ms uint64
	for i := range len(id) {
		d := crockfordDigit(id[i])
		if d < 0 {
			return time.Time{}, false
		}
		if i < 10 {
			ms = ms<<5 | uint64(d)
		}
	}
	return time.UnixMilli(int64(ms)), true
}

const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

func crockfordDigit(c byte) int {
	for i := range len(crockford) {
		if crockford[i] == c {
			return i
		}
	}
	return -1
}

// encodeID writes the 128 bits of id as 26 digits of five bits, two zero bits first.
func encodeID(id [16]byte) string {
	var out [26]byte
	hi, lo := binary.BigEndian.Uint64(id[:8]), binary.BigEndian.Uint64(id[8:])
	for i := len(out) - 1; i >= 0; i-- {
		out[i] = crockford[lo&31]
		lo = lo>>5 | hi<<59
		hi >>= 5
	}
	return string(out[:])
}

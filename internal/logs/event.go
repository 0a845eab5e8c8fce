package logs

import (
	"encoding/binary"
	"time"
	"unicode/utf8"

	"hob/faas"
)

// The rest of an event's frame is like that of a line: the number of its name in
// eventNames (a byte) where a line has the stream, the length of the call's ID (a
// byte), the ID, and instead of the text the attempt and then Stdin, Stdout,
// Stderr and Message, each as its length and its bytes; empty ones at the end are
// left out. Attempt and lengths are unsigned varints.

// eventNames numbers the names of events. New ones are added at the end; the
// first is that of an event which is none of the others.
func eventNames() []faas.EventName {
	return []faas.EventName{"", faas.EventCall, faas.EventPending, faas.EventRunning, faas.EventFinished, faas.EventFailed}
}

// Event adds a step in the life of a call to its function's log. Like a Writer
// it never fails, waits for room for up to 100 ms and then drops and counts the
// event; what the function itself writes, however much, has no part in that. Each
// part is cut at 16 KiB.
func (s *Store) Event(funcID string, e faas.Event) {
	f, err := s.function(funcID)
	if err != nil {
		return // a function without an ID has no log
	}
	var space [512]byte
	if f.add(time.Now(), kindEvent, e.Call, eventByte(e.Name), appendEvent(space[:0], e)) != "" {
		f.lose(1)
	}
	f.wakeFollowers()
}

func eventByte(name faas.EventName) byte {
	switch name {
	case faas.EventCall:
		return 1
	case faas.EventPending:
		return 2
	case faas.EventRunning:
		return 3
	case faas.EventFinished:
		return 4
	case faas.EventFailed:
		return 5
	}
	return 0
}

// appendEvent appends what stands behind the ID of the call.
func appendEvent(dst []byte, e faas.Event) []byte {
	dst = binary.AppendUvarint(dst, uint64(max(0, e.Attempt)))
	parts := [...]string{e.Stdin, e.Stdout, e.Stderr, e.Message}
	n := len(parts)
	for n > 0 && parts[n-1] == "" {
		n--
	}
	for _, part := range parts[:n] {
		part = shorten(part)
		dst = binary.AppendUvarint(dst, uint64(len(part)))
		dst = append(dst, part...)
	}
	return dst
}

// parseEvent returns what appendEvent wrote; false if it is something else.
func parseEvent(name byte, call, b []byte) (*faas.Event, bool) {
	e := &faas.Event{Call: string(call)}
	if names := eventNames(); int(name) < len(names) {
		e.Name = names[name]
	}
	attempt, n := binary.Uvarint(b)
	if n <= 0 || attempt > 1<<31 {
		return nil, false
	}
	e.Attempt, b = int(attempt), b[n:]
	for _, part := range []*string{&e.Stdin, &e.Stdout, &e.Stderr, &e.Message} {
		if len(b) == 0 {
			break
		}
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)-n) {
			return nil, false
		}
		*part, b = string(b[n:n+int(size)]), b[n+int(size):]
	}
	return e, true
}

// maxText is the most bytes that an event or a record keeps of one text.
const maxText = 16 << 10

// shorten cuts s to maxText, between characters, and then says so.
func shorten(s string) string {
	if len(s) <= maxText {
		return s
	}
	cut := maxText
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

package logs

import (
	"bytes"
	"iter"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A Source is whose lines a function's are, for a syslog server and the daemon's log.
type Source struct {
	Syslog      string // URL of the server (faas.CheckSyslog); "": there is none
	Owner       string // for whom the server is dialled (Config.Dial): lines of others go over other connections
	AppID       string
	App, Func   string // names
	Image, Path string // of Config.Echo alone: the source of a trigger, or ""
}

// message is a line on its way to a syslog server.
type message struct {
	from   Source
	funcID string
	call   string // ID; "": none
	at     time.Time
	stream byte
	text   []byte
}

// Limits of messages, in bytes. rsyslog takes 8096 unless it is told otherwise, and
// 2 KiB is what RFC 5426 wants every receiver of UDP to take.
const (
	messageSize    = 8000
	messageSizeUDP = 2 << 10
	leastText      = 256 // of a message, whatever stands before it
)

// Priorities: facility daemon, as container engines send it.
const (
	priorityInfo = 3*8 + 6
	priorityErr  = 3*8 + 3
)

// appendHead appends what stands before the text in a message of RFC 5424. IDs
// stand where the RFC has room for them: APP-NAME takes 48 characters only and
// names the function, PROCID, which groups messages, takes 128.
func (m *message) appendHead(dst []byte, hostname string) []byte {
	priority := priorityInfo
	if m.stream == streamStderr {
		priority = priorityErr
	}
	dst = append(dst, '<')
	dst = strconv.AppendInt(dst, int64(priority), 10)
	dst = append(dst, ">1 "...)
	dst = m.at.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000000Z ")
	dst = appendField(dst, 255, hostname)
	dst = appendField(dst, 48, m.from.App, ".", m.from.Func)
	dst = appendField(dst, 128, "app_id=", m.from.AppID, ",fn_id=", m.funcID)
	dst = appendField(dst, 32, m.call)
	dst = append(dst, "[hob@32473"...) // the number for those who have none of their own
	dst = appendParam(dst, "app", m.from.App)
	dst = appendParam(dst, "fn", m.from.Func)
	dst = appendParam(dst, "app_id", m.from.AppID)
	dst = appendParam(dst, "fn_id", m.funcID)
	if m.call != "" {
		dst = appendParam(dst, "call_id", m.call)
	}
	return append(dst, "] "...)
}

// appendField appends a field of the header: printable ASCII, at most limit, or
// "-" if it is empty; and the space behind it.
func appendField(dst []byte, limit int, parts ...string) []byte {
	start := len(dst)
	for _, part := range parts {
		for _, r := range part {
			if r <= ' ' || r > '~' {
				r = '_'
			}
			if len(dst)-start < limit {
				dst = append(dst, byte(r))
			}
		}
	}
	if len(dst) == start {
		dst = append(dst, '-')
	}
	return append(dst, ' ')
}

// appendParam appends a parameter of structured data, its value cut at 255 bytes.
func appendParam(dst []byte, name, value string) []byte {
	dst = append(dst, ' ')
	dst = append(dst, name...)
	dst = append(dst, `="`...)
	for _, r := range strings.ToValidUTF8(value[:min(len(value), 255)], "") {
		if r == '"' || r == '\\' || r == ']' {
			dst = append(dst, '\\')
		}
		dst = utf8.AppendRune(dst, r)
	}
	return append(dst, '"')
}

// pieces yields the parts of the text that fit behind size bytes in messages of
// limit bytes: UTF-8, cut between characters, at least one.
func (m *message) pieces(limit, size int) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		text := m.text
		if !utf8.Valid(text) {
			text = bytes.ToValidUTF8(text, []byte("\uFFFD"))
		}
		room := max(limit-size, leastText)
		for len(text) > room {
			cut := runeCut(text[:room])
			if !yield(text[:cut]) {
				return
			}
			text = text[cut:]
		}
		yield(text)
	}
}

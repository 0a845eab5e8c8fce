package faas

import (
	"strings"
	"unicode/utf8"
)

// String is an Event as a line of a log, in the words of Hyper Func:
// "[FINISHED] CallId: 01K9…, ShortStdout: hello, ShortStderr: ".
func (e Event) String() string {
	var b strings.Builder
	b.WriteString("[" + string(e.Name) + "] CallId: " + e.Call)
	part := func(name, value string, always bool) {
		if value != "" || always {
			b.WriteString(", " + name + ": " + value)
		}
	}
	switch e.Name {
	case EventCall:
		part("ShortStdin", e.Stdin, true)
	case EventFinished:
		part("ShortStdout", e.Stdout, true)
		part("ShortStderr", e.Stderr, true)
	case EventFailed:
		part("ShortStdout", e.Stdout, false)
		part("ShortStderr", e.Stderr, false)
	}
	part("Message", e.Message, false)
	return b.String()
}

// Short is the beginning of b that an Event shows: at most ShortBytes, as text,
// with no character cut in two.
func Short(b []byte) string {
	if len(b) > ShortBytes {
		b = b[:ShortBytes]
		for back := 1; back < utf8.UTFMax && back <= len(b); back++ {
			if at := len(b) - back; utf8.RuneStart(b[at]) {
				if !utf8.FullRune(b[at:]) {
					b = b[:at]
				}
				break
			}
		}
	}
	return strings.ToValidUTF8(string(b), "\uFFFD")
}

package logs

import (
	"fmt"
	"time"

	"hob/faas"
)

// The rest of a line's frame is the stream (a byte), the length of the call's ID
// (a byte), the ID, and the text.

// Streams, as they are in a frame.
const (
	streamOther byte = iota
	streamStdout
	streamStderr
	streamHob
)

func streamByte(name string) byte {
	switch name {
	case "stdout":
		return streamStdout
	case "stderr":
		return streamStderr
	case "hob":
		return streamHob
	}
	return streamOther
}

func streamName(b byte) string {
	switch b {
	case streamStdout:
		return "stdout"
	case streamStderr:
		return "stderr"
	case streamHob:
		return "hob"
	}
	return ""
}

// lineSize is the size of the frame of a line or an event.
func lineSize(call string, text []byte) int {
	return headSize + bodyHead + 2 + len(callOf(call)) + len(text)
}

// callOf cuts an ID to what a frame can hold.
func callOf(call string) string { return call[:min(len(call), 255)] }

func appendLine(dst []byte, at time.Time, call string, stream byte, text []byte) []byte {
	return appendEntry(dst, kindLine, at, call, stream, text)
}

// appendEntry appends the frame of a line or an event.
func appendEntry(dst []byte, kind byte, at time.Time, call string, stream byte, text []byte) []byte {
	call = callOf(call)
	dst, start := beginFrame(dst, kind, at)
	dst = append(dst, stream, byte(len(call)))
	dst = append(dst, call...)
	return endFrame(append(dst, text...), start)
}

// parseLine returns the parts of the frame of a line or an event.
func parseLine(rest []byte) (stream byte, call, text []byte, ok bool) {
	if len(rest) < 2 || len(rest) < 2+int(rest[1]) {
		return 0, nil, nil, false
	}
	n := 2 + int(rest[1])
	return rest[0], rest[2:n], rest[n:], true
}

// lineID is series.id of a function's log.
func lineID(rest []byte) (string, bool) {
	_, call, _, ok := parseLine(rest)
	return string(call), ok && len(call) > 0
}

// droppedText is the line that stands where n lines were dropped.
func droppedText(n int, why string) []byte {
	return fmt.Appendf(nil, "… %s dropped: %s", linesText(n), why)
}

func linesText(n int) string {
	if n == 1 {
		return "1 line"
	}
	return fmt.Sprintf("%d lines", n)
}

// damageText is the line that stands where n bytes are damaged.
func damageText(n int64) []byte {
	return fmt.Appendf(nil, "… %v of the log are damaged on the disk: the lines in them are lost", faas.Bytes(n))
}

// logLine is what the reader of a log is given for a line or an event.
// Precondition: cursor.wants has found it whole.
func logLine(fr frame) faas.LogLine {
	stream, call, text, _ := parseLine(fr.rest)
	line := faas.LogLine{Time: time.Unix(0, fr.at), Call: string(call)}
	if fr.kind == kindEvent {
		e, _ := parseEvent(stream, call, text)
		line.Stream, line.Text, line.Event = "hob", e.String(), e
		return line
	}
	line.Stream, line.Text = streamName(stream), string(text)
	return line
}

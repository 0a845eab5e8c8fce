package faas

import (
	"io"
	"net/http"
	"time"
)

// A Request is what a function is given, whatever the edge it came through.
type Request struct {
	Call    string // ID; set by whoever runs the call
	Attempt int    // of an asynchronous call, 1 for the first; set by the same
	Method  string
	URL     string // as the caller wrote it, absolute; with its query
	Target  string // path and query that a function which speaks HTTP is asked for; "": "/"
	Route   string // path inside the app that was matched, if any
	Caller  string // IP address of the caller; "": not known
	Header  http.Header
	Params  map[string]string // path parameters
	Body    io.Reader         // never nil; read once
	Size    int64             // of Body; -1: unknown

	MaxHeader Bytes // of the header of the answer of formats http and http-stream, with its first line: it is refused above that; 0: what the format allows

	Key string // by which its caller knows a call again that it sends twice; "": it does not

	Deadline time.Time // when the call's time is over; zero: never. Set by whoever runs the call

	Convention Convention // how the environment names what is above; "": ours
	Env        []string   // ready-made "NAME=value" entries from the edge; they win over configuration
}

// MaxRequest is the most that a function is given of formats whose body is read whole
// before the function has any of it; 0: it is passed on as it comes. One of format http
// is so only if the function has to be told its length, and that is not known.
func (f Format) MaxRequest() Bytes {
	switch f {
	case FormatJSON, FormatCloudEvent, FormatHTTP:
		return 16 * MB
	case FormatLambda:
		return 6*MB + 100 // as AWS has it
	}
	return 0
}

// A Convention is a set of names under which a process finds method, URL,
// headers and limits of its call in the environment. The tables are in package
// invoke; docs/contract.md has them for users.
type Convention string

// Conventions.
const (
	ConventionHob   Convention = ""      // HOB_CALL_ID, HTTP_ACCEPT, …
	ConventionIron  Convention = "iron"  // IronFunctions: METHOD, HEADER_ACCEPT, …
	ConventionFn    Convention = "fn"    // Fn v1: FN_METHOD, FN_HEADER_ACCEPT, …, and those of IronFunctions
	ConventionHyper Convention = "hyper" // Hyper Func: HTTP_ACCEPT, …
)

// Iron reports whether c has the names of IronFunctions, which tells a function of
// format http of each call in headers, too.
func (c Convention) Iron() bool { return c == ConventionIron || c == ConventionFn }

// An Exit is how a process ended.
type Exit struct {
	Code   int    // exit status; meaningless if Signal is set
	Signal string // name of the signal that ended it, as "SIGKILL"; empty: it exited
	OOM    bool   // it failed, and a process of the sandbox was killed for being over its memory limit
}

// An Outcome is how an exchange with a function ended.
type Outcome struct {
	Status     int   // HTTP status given to the caller; 0: none
	In, Out    int64 // bytes of the body read from the caller and of the answer
	Start      Start // what the call found
	Keep       bool  // the sandbox can serve another call
	Again      bool  // it failed before the function had any of the request, which can be given to another sandbox as it is
	Exit       *Exit // of the process, if it ended
	PeakMemory Bytes
	CPUTime    time.Duration // user and system
	Stderr     string        // the first ShortBytes that were written on standard error; only of a function with LogPayload

	Image, Sandbox, Run time.Duration // as in Call
}

// A Start is what a call found on the node.
type Start string

// Starts, from the quickest to the slowest.
const (
	StartHot      Start = "hot"       // a sandbox that was started before
	StartPrepared Start = "prepared"  // a blank with the root of its function's revision
	StartBare     Start = "bare"      // a blank that knew no image yet
	StartOnDemand Start = "on_demand" // nothing: all was made then
	StartOutside  Start = "outside"   // nothing of this node's: an outside runner took it
)

// A LogLine is one line that a function wrote, or that hob wrote about it.
type LogLine struct {
	Time   time.Time
	Call   string // ID
	Stream string // "stderr", "stdout" or "hob"
	Text   string // without its line end
	Event  *Event // of stream "hob": what Text says, in parts; nil: it is a note
}

// ShortBytes is how much of payload, result and standard error an Event shows.
const ShortBytes = 255

// An Event is a step in the life of an asynchronous call, as its function's log
// shows it.
type Event struct {
	Name    EventName
	Call    string // ID
	Attempt int

	// The beginnings, of functions with LogPayload only.
	Stdin, Stdout, Stderr string

	Message string // of EventFailed: why; of EventPending: when it is tried again
}

// An EventName is one of the words that Hyper Func has for these steps.
type EventName string

// Events, in the order of a call's life.
const (
	EventCall     EventName = "CALL"     // it was received
	EventPending  EventName = "PENDING"  // it is in the queue
	EventRunning  EventName = "RUNNING"  // it has a sandbox
	EventFinished EventName = "FINISHED" // it succeeded
	EventFailed   EventName = "FAILED"   // it did not: failed, ran out of time or was canceled
)

// A Sandbox is one live sandbox as users see it.
type Sandbox struct {
	ID       string
	App      string
	Function string
	Format   Format
	Call     string // it serves now, or the latest of several; empty between calls
	State    string // "starting", "busy", "idle", "frozen", "ending"
	Start    Start  // how it was started
	Calls    int    // served so far
	Started  time.Time
	Label    string // that the operator has all sandboxes of the node bear; "": none

	Memory, PeakMemory Bytes
	CPUTime            time.Duration
	Processes          int
}

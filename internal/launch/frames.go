package launch

import (
	"bytes"
	"cmp"
	"net/textproto"
	"strings"
	"sync"

	"hob/faas"
)

// What is known of frames at once, for one process.
const (
	framesKept = 64      // calls
	maxFrame   = 1 << 10 // bytes of a value; a call with a longer one has no frame
)

// frames are lines in the output of a process that say which call begins there.
// Development kits of Oracle Functions print one on both outputs before each call,
// between empty lines, if the configuration asks for it: a name, "=", and the
// value that a header of the request has.
type frames struct {
	prefix string // of a frame: name and "="
	header string // whose value it has

	mu    sync.Mutex
	begun int      // calls so far; guarded by mu, as all below
	calls []framed // the latest of them, in their order
}

// framed is a call that has begun.
type framed struct {
	value string // of its frame; "": it has none
	call  *string
}

// framesOf returns the frames that an environment asks for; nil: none.
func framesOf(env []string) *frames {
	f := new(frames)
	for _, e := range env {
		if name, ok := strings.CutPrefix(e, "FN_LOGFRAME_NAME="); ok && name != "" {
			f.prefix = name + "="
		}
		if header, ok := strings.CutPrefix(e, "FN_LOGFRAME_HDR="); ok {
			f.header = textproto.CanonicalMIMEHeaderKey(header)
		}
	}
	if f.prefix == "" || f.header == "" || strings.Contains(f.prefix, "\n") {
		return nil
	}
	return f
}

// expect is told of a call before the process is. It returns what stands for the
// call from now on: it does not hold on to the request.
func (f *frames) expect(req *faas.Request) (call *string) {
	value := req.Call
	if f.header != "Fn-Call-Id" {
		value = cmp.Or(req.Header.Get(f.header), req.Header.Get("Fn-Http-H-"+f.header))
	}
	if len(value) > maxFrame {
		value = ""
	}
	call = new(req.Call)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.begun++
	if len(f.calls) == framesKept {
		f.calls = append(f.calls[:0], f.calls[1:]...)
	}
	f.calls = append(f.calls, framed{value, call})
	return call
}

// find returns the call of a frame, and which in the order of calls it is: the
// first with this value behind call number at, else the latest before.
func (f *frames) find(value string, at int) (n int, call *string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.begun - len(f.calls)
	for i, c := range f.calls {
		if c.value == value {
			n, call = before+1+i, c.call
		}
		if call != nil && n > at {
			break
		}
	}
	return n, call
}

// unframed returns the latest call behind call number at that has no frame; nil:
// there is none.
func (f *frames) unframed(at int) *string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := len(f.calls) - 1; i >= 0 && f.begun-len(f.calls)+1+i > at; i-- {
		if f.calls[i].value == "" {
			return f.calls[i].call
		}
	}
	return nil
}

// A splitter divides one output of a process among its calls and leaves out the
// frames. It holds back no more than what may yet become a frame.
type splitter struct {
	*frames
	latest func() *string               // call, to which belongs what no frame decides
	say    func(call *string, b []byte) // is given the parts

	at     int     // number of the call whose frame was read last; 0: none was
	call   *string // that call
	empty  bool    // an empty line is held back
	held   []byte  // the beginning of a line that may be a frame
	inside bool    // the rest of a line comes that is none
	behind bool    // nothing has come behind a frame
}

// feed takes what was read next.
func (s *splitter) feed(b []byte) {
	for len(b) > 0 {
		n := bytes.IndexByte(b, '\n') + 1
		ends := n > 0
		if !ends {
			n = len(b)
		}
		s.part(b[:n], ends)
		b = b[n:]
	}
}

// part takes a part of a line, with its end if it ends.
func (s *splitter) part(b []byte, ends bool) {
	behind := s.behind
	s.behind = false
	if s.inside {
		s.inside = !ends
		s.tell(b)
		return
	}
	switch line := append(s.held, bytes.TrimSuffix(b, []byte("\n"))...); {
	case !ends && s.mayBe(line):
		s.held = line
	case ends && len(line) == 0 && behind: // some kits print it
	case ends && len(line) == 0 && !s.empty:
		s.empty = true
	case ends && len(line) == 0:
		s.tell(b) // one of two stays
	case ends && s.begins(line):
	default:
		s.release()
		s.tell(b)
		s.inside = !ends
	}
}

// mayBe reports whether a line may become a frame that begins so.
func (s *splitter) mayBe(line []byte) bool {
	if len(line) <= len(s.prefix) {
		return strings.HasPrefix(s.prefix, string(line))
	}
	return len(line) <= len(s.prefix)+maxFrame && bytes.HasPrefix(line, []byte(s.prefix))
}

// begins reports whether a line is the frame of a call, which begins then.
func (s *splitter) begins(line []byte) bool {
	value, ok := strings.CutPrefix(string(line), s.prefix)
	if !ok || value == "" {
		return false
	}
	n, call := s.find(value, s.at)
	if call == nil {
		return false
	}
	s.at, s.call = n, call
	s.empty, s.held, s.behind = false, s.held[:0], true
	return true
}

// release tells what was held back.
func (s *splitter) release() {
	if s.empty {
		s.tell([]byte("\n"))
	}
	if len(s.held) > 0 {
		s.tell(s.held)
	}
	s.empty, s.held = false, s.held[:0]
}

// tell gives a part to its call: that of the last frame, or a later one that has
// none. Before the first frame it is the latest, as if there were no frames: there
// may never be one.
func (s *splitter) tell(b []byte) {
	call := s.call
	if call == nil {
		call = s.latest()
	} else if later := s.unframed(s.at); later != nil {
		call = later
	}
	s.say(call, b)
}

// end tells that nothing more comes.
func (s *splitter) end() {
	if len(s.held) == 0 || !s.begins(s.held) {
		s.release()
	}
}

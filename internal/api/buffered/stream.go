package buffered

import (
	"errors"
	"net/http"
	"os"
	"strconv"

	"hob/faas"
	"hob/internal/invoke"
)

// Stream has an answer go on its way as soon as the protocol flushes it, if functions of
// this format may be read while they write. The protocols of the others are those of
// systems that hold all answers. head gives the header of the client's writer what it is
// to have, and returns the status; an answer that streams has it called once.
func (a *Answer) Stream(format faas.Format, head func() (status int, err error)) {
	if format == faas.FormatLambda || format == faas.FormatPort {
		a.head = head
	}
}

// Streamed reports whether the client has the answer already, of a call that ended with
// err. It panics with http.ErrAbortHandler if that is not all of it.
func (a *Answer) Streamed(err error) bool {
	if a.sent && (err != nil || a.err != nil) {
		panic(http.ErrAbortHandler)
	}
	return a.sent
}

// flush sends what there is. It waits for a slow client.
func (a *Answer) flush() error {
	if a.err != nil {
		return a.err
	}
	if !a.sent {
		if a.err = a.begin(); a.err != nil {
			return a.err
		}
	}
	a.err = http.NewResponseController(a.w).Flush()
	return a.err
}

// begin sends the head, and what is held. From then on nothing is.
func (a *Answer) begin() error {
	n, err := strconv.ParseInt(a.header.Get("Content-Length"), 10, 64)
	if known := err == nil; known && a.limit > 0 && n > int64(a.limit) { // better no answer than a part of it
		a.Over = true
		return a.tooLarge()
	}
	status, err := a.head()
	if err != nil {
		return err
	}
	to := a.w.Header()
	if given := a.header["Content-Length"]; given != nil {
		to["Content-Length"] = given
	}
	a.nameReplayed()
	a.mu.Lock()
	cut := a.cut
	a.sent = !cut
	a.mu.Unlock()
	if cut {
		return os.ErrDeadlineExceeded
	}
	err = a.write(status)
	a.file.Discard()
	a.file, a.mem = nil, a.mem[:0]
	return err
}

// pass gives the client a part of an answer that has begun.
func (a *Answer) pass(p []byte) error {
	a.size += int64(len(p))
	if a.Over = a.limit > 0 && a.size > int64(a.limit); a.Over {
		return a.tooLarge()
	}
	if _, err := a.w.Write(p); !errors.Is(err, http.ErrBodyNotAllowed) { // of a status that has none
		return err
	}
	return nil
}

func (a *Answer) tooLarge() error {
	return faas.Errorf(faas.TooLarge, "the answer is over the limit of %v", a.limit)
}

// nameReplayed says in a header whether the answer is that of an earlier call.
func (a *Answer) nameReplayed() {
	if a.call != nil && a.call.ID != a.made {
		a.w.Header().Set(invoke.HeaderReplayed, "true")
	}
}

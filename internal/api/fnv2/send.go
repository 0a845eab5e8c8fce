package fnv2

import (
	"net/http"
	"strconv"
	"strings"

	"hob/internal/api/buffered"
)

// send gives the client the answer of a call with this id. If the function was told of
// an HTTP request in Fn's headers it answers in them.
func (c *call) send(w http.ResponseWriter, answer *buffered.Answer, id string) error {
	to := w.Header()
	status := answer.Status()
	if c.mapped {
		var err error
		if status, err = unmapHeader(to, answer.Header()); err != nil {
			return err
		}
	} else {
		for name, values := range answer.Header() {
			buffered.Give(to, name, values)
		}
	}
	to[headerCall] = []string{id}
	answer.Send(status)
	return nil
}

// headerPrefix is before the name of a header of an HTTP request, and of the answer
// to it, between hob and the function.
const headerPrefix = "Fn-Http-H-"

// unmapHeader turns the header of a function into that of the answer to an HTTP
// request, and returns the status it asks for. A status that is no number is none,
// as Fn has it; a number that cannot be the status of an answer is a fault.
func unmapHeader(to, from http.Header) (status int, err error) {
	status = http.StatusOK
	if given := from["Fn-Http-Status"]; given != nil {
		if n, err := strconv.Atoi(given[0]); err == nil && n > 0 {
			status = n
		}
	}
	if status < 200 || status > 999 {
		return 0, errInvalid
	}
	for name, values := range from {
		rest, mapped := strings.CutPrefix(name, headerPrefix)
		switch {
		case mapped && rest != "":
			buffered.Give(to, rest, values)
		case name == "Content-Type" && from[headerPrefix+name] == nil:
			to[name] = values
		}
	}
	return status, nil
}

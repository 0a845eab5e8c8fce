package api

import (
	"net/http"
	"strconv"
	"time"

	"hob/faas"
)

// Headers that say how an asynchronous call waits for its turn.
const (
	HeaderPriority = "Hob-Priority" // 0 to faas.MaxPriority
	HeaderDelay    = "Hob-Delay"    // a duration, at most faas.MaxDelay
)

// Queueing reads the headers that say how an asynchronous call waits, and takes them
// out: they are not for the function. Without one the priority is 0, the delay below 0
// (that of the function). The error is Invalid.
func Queueing(h http.Header) (priority int, delay time.Duration, err error) {
	delay = -1
	for _, name := range []string{HeaderPriority, HeaderDelay} {
		given, is := h[name]
		switch {
		case !is:
			continue
		case len(given) > 1:
			return 0, 0, faas.Errorf(faas.Invalid, "header %s is given %d times", name, len(given))
		case name == HeaderPriority:
			priority, err = strconv.Atoi(given[0])
			if err != nil || priority < 0 || priority > faas.MaxPriority {
				return 0, 0, faas.Errorf(faas.Invalid, "header %s is %q: it must be a whole number between 0 and %d", name, given[0], faas.MaxPriority)
			}
		default:
			delay, err = time.ParseDuration(given[0])
			if err != nil || delay < 0 || delay > faas.MaxDelay {
				return 0, 0, faas.Errorf(faas.Invalid, "header %s is %q: it must be a duration between 0s and %v, as 10s or 1h30m", name, given[0], faas.MaxDelay)
			}
		}
		delete(h, name)
	}
	return priority, delay, nil
}

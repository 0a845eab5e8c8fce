package deliver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/store"
)

func TestAnswerOfATryDecides(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	refused := &url.Error{Op: "Post", URL: "http://a/?secret", Err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}}
	header := func(name, value string) http.Header { return http.Header{name: {value}} }
	for _, c := range []struct {
		name    string
		try     try
		tries   int
		age     time.Duration
		spread  float64
		done    bool
		retry   time.Duration
		words   string
		andDown bool
	}{
		{name: "first", try: answered(200, nil, now), done: true, words: "delivered to http://d/x"},
		{name: "third", try: answered(299, nil, now), tries: 2, age: 99 * time.Hour, done: true, words: "delivered to http://d/x in 3 tries"},
		{name: "unavailable", try: answered(503, nil, now), retry: time.Second / 2, words: "tried once, again in 500ms: 503 Service Unavailable"},
		{name: "spread", try: answered(500, nil, now), spread: 1, retry: time.Second, words: "tried once, again in 1s: 500 Internal Server Error"},
		{name: "back-off", try: answered(429, nil, now), tries: 6, spread: 1, retry: 64 * time.Second, words: "tried 7 times, again in 1m4s: 429 Too Many Requests"},
		{name: "longest back-off", try: answered(408, nil, now), tries: 1 << 40, spread: 1, retry: 10 * time.Minute, words: "tried 1099511627777 times, again in 10m0s: 408 Request Timeout"},
		{name: "asks for time", try: answered(429, header("Retry-After", "40"), now), tries: 2, retry: 40 * time.Second, words: "tried 3 times, again in 40s: 429 Too Many Requests"},
		{name: "asks for less time", try: answered(425, header("Retry-After", "1"), now), tries: 5, retry: 16 * time.Second, words: "tried 6 times, again in 16s: 425 Too Early"},
		{name: "asks until then", try: answered(503, header("Retry-After", "Wed, 02 Jan 2030 03:06:05 GMT"), now), retry: 2 * time.Minute, words: "tried once, again in 2m0s: 503 Service Unavailable"},
		{name: "asks for what was", try: answered(503, header("Retry-After", "Tue, 01 Jan 2030 03:06:05 GMT"), now), retry: time.Second / 2, words: "tried once, again in 500ms: 503 Service Unavailable"},
		{name: "asks for nonsense", try: answered(503, header("Retry-After", "-5"), now), retry: time.Second / 2, words: "tried once, again in 500ms: 503 Service Unavailable"},
		{name: "asks for ever", try: answered(503, header("Retry-After", "999999999999"), now), age: 23 * time.Hour, retry: time.Hour, words: "tried once, again in 1h0m0s: 503 Service Unavailable"},
		{name: "last try at the end", try: answered(502, nil, now), tries: 20, age: 24*time.Hour - time.Minute, retry: time.Minute, words: "tried 21 times, again in 1m0s: 502 Bad Gateway"},
		{name: "time is over", try: answered(502, nil, now), tries: 150, age: 24 * time.Hour, done: true, words: "given up after 24h: 502 Bad Gateway"},
		{name: "not found", try: answered(404, nil, now), done: true, words: "given up: 404 Not Found"},
		{name: "redirect", try: answered(302, header("Location", "https://e/y?token=1"), now), done: true, words: "given up: 302 Found: it leads to https://e/y, and redirects are not followed"},
		{name: "not modified", try: answered(304, nil, now), done: true, words: "given up: 304 Not Modified"},
		{name: "refused", try: failed(refused), tries: 2, spread: 1, retry: 4 * time.Second, words: "tried 3 times, again in 4s: dial: connection refused", andDown: true},
		{name: "silent", try: failed(fmt.Errorf("x: %w", context.DeadlineExceeded)), retry: time.Second / 2, words: "tried once, again in 500ms: no answer within 30s", andDown: true},
		{name: "cut off", try: failed(&url.Error{Op: "Post", Err: io.ErrUnexpectedEOF}), retry: time.Second / 2, words: "tried once, again in 500ms: unexpected EOF"},
		{name: "clock set back", try: failed(io.EOF), age: -time.Hour, retry: time.Second / 2, words: "tried once, again in 500ms: EOF"},
		{name: "enqueued", try: enqueued(nil), done: true, words: "delivered to http://d/x"},
		{name: "enqueued before", try: enqueued(faas.Errorf(faas.Conflict, "known")), tries: 1, done: true, words: "delivered to http://d/x in 2 tries"},
		{name: "no function", try: enqueued(faas.Errorf(faas.NotFound, "no function a/f")), done: true, words: "given up: no function a/f"},
		{name: "queue is full", try: enqueued(faas.Errorf(faas.Busy, "full")), retry: time.Second / 2, words: "tried once, again in 500ms: full"},
		{name: "closed to the function", try: failed(&url.Error{Op: "Post", URL: "http://d/x?token=1", Err: faas.Errorf(faas.Denied, "connect to d:80: closed")}), done: true, words: "given up: connect to d:80: closed"},
		{name: "too large for the function", try: enqueued(faas.Errorf(faas.TooLarge, "too large")), done: true, words: "given up: too large"},
		{name: "result rotated", try: unread(faas.Errorf(faas.NotFound, "result: %w", faas.ErrGone)), done: true, words: "given up: the result is not kept any more"},
		{name: "call removed", try: unread(faas.Errorf(faas.NotFound, "no call X")), done: true, words: "given up: no call X"},
		{name: "disk", try: unread(errors.New("read: input/output error")), retry: time.Second / 2, words: "tried once, again in 500ms: read: input/output error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := decide(store.Delivery{Target: "http://d/x?token=1", Tries: c.tries}, c.try, c.age, c.spread)
			if want := (verdict{c.done, c.retry, c.words}); got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			if c.try.down != c.andDown {
				t.Errorf("the destination as a whole is down: %v, want %v", c.try.down, c.andDown)
			}
			if strings.Contains(got.words, "secret") || strings.Contains(got.words, "token") {
				t.Errorf("%q has the query of an address", got.words)
			}
		})
	}
}

func deliveries(target string, ids ...int) (all []store.Delivery) {
	for _, id := range ids {
		all = append(all, store.Delivery{ID: fmt.Sprintf("%s %d", target, id), Target: target})
	}
	return all
}

// starts takes all that l starts now.
func starts(l *line) (all []string) {
	for one, ok := l.start(); ok; one, ok = l.start() {
		all = append(all, one.ID)
	}
	return all
}

func TestDestinationsTakeTurns(t *testing.T) {
	l := newLine()
	l.want()
	due := append(deliveries("http://a/", 1, 2, 3, 4, 5, 6), deliveries("http://b/", 1, 2)...)
	l.add(due)
	l.add(due) // they are due until they are over
	if got, want := fmt.Sprint(starts(l)), "[http://a/ 1 http://b/ 1 http://a/ 2 http://b/ 2 http://a/ 3 http://a/ 4]"; got != want {
		t.Errorf("started\n%v, want\n%v", got, want)
	}
	if l.more() {
		t.Error("the store is asked again although it has told all")
	}
	l.end(end{delivery: due[0], own: true})
	if got, want := fmt.Sprint(starts(l)), "[http://a/ 5]"; got != want {
		t.Errorf("started %v, want %v", got, want)
	}
}

func TestDestinationThatDoesNotAnswerGetsOneTryAtATime(t *testing.T) {
	l := newLine()
	l.want()
	due := deliveries("http://a/", 1, 2, 3, 4, 5, 6)
	l.add(due)
	starts(l)
	behind := l.end(end{delivery: due[0], try: try{down: true}, own: true})
	if fmt.Sprint(behind) != fmt.Sprint(due[4:]) {
		t.Errorf("the try counts for %v, want %v", behind, due[4:])
	}
	for _, one := range due[1:4] {
		l.end(end{delivery: one, try: try{down: true}, own: true})
	}
	for _, one := range due[4:] {
		l.end(end{delivery: one, try: try{down: true}})
	}
	l.want()
	l.add(due)
	if got, want := fmt.Sprint(starts(l)), "[http://a/ 1]"; got != want {
		t.Errorf("started %v, want %v", got, want)
	}
	l.end(end{delivery: due[0], own: true})
	if got := len(starts(l)); got != atOncePer {
		t.Errorf("after an answer %d were started, want %d", got, atOncePer)
	}
	for _, one := range due[1:] {
		l.end(end{delivery: one, own: true})
		starts(l)
	}
	if len(l.known)+len(l.hosts)+len(l.down)+l.running != 0 {
		t.Errorf("something is left: %+v", l)
	}
}

func TestLongLineOfOneDestinationHidesNobody(t *testing.T) {
	const many = 1000
	var kept []store.Delivery
	for i := range many {
		kept = append(kept, deliveries("http://slow/", i)...)
	}
	kept = append(kept, deliveries("app/function", 1)...)
	l := newLine()
	var started []string
	looks := 0
	for {
		l.add(kept[:min(l.want(), len(kept))])
		started = append(started, starts(l)...)
		if looks++; !l.more() {
			break
		}
	}
	if len(started) != atOncePer+1 || started[atOncePer] != "app/function 1" {
		t.Errorf("started %v, want %d of the first and the other destination", started, atOncePer)
	}
	if looks > 6 {
		t.Errorf("the store was asked %d times for %d deliveries", looks, many)
	}
}

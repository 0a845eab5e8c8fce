package invoke

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hob/faas"
)

// callWith makes one call with this body.
func callWith(ctx context.Context, i *Invoker, f faas.Function, body io.Reader, size int64) (*httptest.ResponseRecorder, *faas.Call, error) {
	w := httptest.NewRecorder()
	c := NewCall(faas.App{Name: "photos"}, f, faas.CallSync)
	err := i.Call(ctx, f, c, &faas.Request{Method: "POST", URL: "http://h/x", Header: http.Header{}, Body: body, Size: size}, w)
	return w, c, err
}

// oneOf is a function of which one call runs at a time.
func oneOf(format faas.Format) faas.Function {
	f := faas.Function{ID: "f1", App: "a1", Name: "resize", Image: "i", Format: format, MaxConcurrency: 1}.WithDefaults()
	f.Timeout = time.Hour
	return f
}

// TestCallersWhoSendSlowlyHoldNoSandbox: they are told after a while, others do not
// wait for them.
func TestCallersWhoSendSlowlyHoldNoSandbox(t *testing.T) {
	for _, format := range faas.Formats() {
		for _, size := range []int64{10, -1} {
			if size < 0 && (format.MaxRequest() == 0 || format == faas.FormatHTTP) {
				continue
			}
			synctest.Test(t, func(t *testing.T) {
				i, _ := newInvoker(t, echo)
				begin := time.Now()
				slow := make(chan error, 2)
				for range cap(slow) {
					r, sent := io.Pipe()
					go sent.Write([]byte("x"))
					go func() {
						_, c, err := callWith(t.Context(), i, oneOf(format), r, size)
						if !c.Started.IsZero() {
							t.Errorf("%s: it had a slot", format)
						}
						slow <- err
					}()
				}
				synctest.Wait()
				w, _, err := callWith(t.Context(), i, oneOf(format), io.MultiReader(strings.NewReader("honest")), 6)
				if err != nil || w.Body.String() != "honest" || time.Since(begin) != 0 {
					t.Errorf("%s: %q, %v after %v", format, w.Body, err, time.Since(begin))
				}
				for range cap(slow) {
					if err := <-slow; faas.KindOf(err) != faas.Canceled || !strings.Contains(err.Error(), "nothing of its payload for 10s") {
						t.Errorf("%s: %v", format, err)
					}
				}
				if n := i.gathered.Load(); n != 0 {
					t.Errorf("%d bytes are held", n)
				}
			})
		}
	}
}

// TestCallersWhoSendSteadilyAreWaitedFor, however long it takes.
func TestCallersWhoSendSteadilyAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, _ := newInvoker(t, echo)
		r, sent := io.Pipe()
		go func() {
			for range 10 {
				time.Sleep(8 * time.Second)
				sent.Write([]byte("x"))
			}
		}()
		w, c, err := callWith(t.Context(), i, oneOf(faas.FormatHTTP), r, 10)
		if err != nil || w.Body.String() != "xxxxxxxxxx" || c.Queue != 0 {
			t.Errorf("%q, %v, waited %v", w.Body, err, c.Queue)
		}
	})
}

func TestReadingOfABodyEndsWithItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, _ := newInvoker(t, echo)
		r, _ := io.Pipe()
		ended := make(chan error, 1)
		go func() {
			_, _, err := callWith(context.Background(), i, oneOf(faas.FormatHTTP), r, 10)
			ended <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		i.Drain(ctx)
		if err := <-ended; faas.KindOf(err) != faas.Busy {
			t.Errorf("%v", err)
		}
	})
}

func TestBodyThatBreaksOffIsCanceled(t *testing.T) {
	for name, tt := range map[string]struct {
		body io.Reader
		size int64
		kind faas.Kind
	}{
		"it ends":      {io.MultiReader(strings.NewReader("half")), 8, faas.Canceled},
		"it is lost":   {io.MultiReader(strings.NewReader("half"), lost{}), 8, faas.Canceled},
		"it is larger": {http.MaxBytesReader(nil, io.NopCloser(strings.NewReader("12345678")), 4), -1, faas.TooLarge},
	} {
		i, _ := newInvoker(t, echo)
		if _, c, err := callWith(t.Context(), i, oneOf(faas.FormatLambda), tt.body, tt.size); faas.KindOf(err) != tt.kind || !c.Started.IsZero() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type lost struct{}

func (lost) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

// TestBodyReachesTheFunctionWhole, of whatever size, and whether it was read before or
// not.
func TestBodyReachesTheFunctionWhole(t *testing.T) {
	for _, held := range []int64{0, maxGathered - 100<<10, maxGathered} { // of others
		i, _ := newInvoker(t, echo)
		i.gathered.Add(held)
		for _, n := range []int{1, 4096, 4097, 64 << 10, 64<<10 + 1, 300 << 10, 6<<20 + 100, 6<<20 + 101} {
			for _, known := range []bool{true, false} {
				said := strings.Repeat("x", n-1) + "y"
				size := int64(n)
				if !known {
					size = -1
				}
				w, _, err := callWith(t.Context(), i, oneOf(faas.FormatLambda), io.MultiReader(strings.NewReader(said)), size)
				if err != nil || w.Body.String() != said {
					t.Errorf("%d bytes: %d, %v", n, w.Body.Len(), err)
				}
			}
		}
		if n := i.gathered.Load(); n != held {
			t.Errorf("%d bytes are held", n-held)
		}
	}
}

// TestWhatIsReadBeforeTheSlot is the table.
func TestWhatIsReadBeforeTheSlot(t *testing.T) {
	network := io.MultiReader(strings.NewReader(""))
	for _, tt := range []struct {
		format faas.Format
		body   io.Reader
		size   int64
		kind   faas.CallKind
		key    string
		names  faas.Convention
		want   int64
	}{
		{format: faas.FormatDefault, body: network, size: 10, want: 10},
		{format: faas.FormatPort, body: network, size: 64 << 10, want: 64 << 10},
		{format: faas.FormatPort, body: network, size: 64<<10 + 1},
		{format: faas.FormatPort, body: network, size: -1},
		{format: faas.FormatHTTPStream, body: network, size: -1},
		{format: faas.FormatHTTP, body: network, size: -1},
		{format: faas.FormatHTTP, body: network, size: 1 << 20},
		{format: faas.FormatHTTP, body: network, size: -1, names: faas.ConventionFn, want: 16 << 20},
		{format: faas.FormatJSON, body: network, size: -1, want: 16 << 20},
		{format: faas.FormatJSON, body: network, size: 5 << 20, want: 5 << 20},
		{format: faas.FormatJSON, body: network, size: 17 << 20}, // it will be refused
		{format: faas.FormatLambda, body: network, size: -1, want: 6<<20 + 100},
		{format: faas.FormatLambda, body: strings.NewReader("x"), size: 1},
		{format: faas.FormatLambda, body: http.NoBody, size: 0},
		{format: faas.FormatLambda, body: network, size: 10, kind: faas.CallAsync},
		{format: faas.FormatLambda, body: network, size: 10, key: "k"},
	} {
		req := &faas.Request{Body: tt.body, Size: tt.size, Key: tt.key, Convention: tt.names}
		if got := gatherable(&faas.Function{Format: tt.format}, &faas.Call{Kind: tt.kind}, req); got != tt.want {
			t.Errorf("%+v: %d", tt, got)
		}
	}
}

// TestReadingASmallBodyCostsNoMemory: what it needs is used again.
func TestReadingASmallBodyCostsNoMemory(t *testing.T) {
	i, f, call := new(Invoker), oneOf(faas.FormatHTTP), new(faas.Call)
	said, body, w := []byte("hello"), new(again), httptest.NewRecorder()
	req := &faas.Request{}
	if n := testing.AllocsPerRun(200, func() {
		body.left = said
		req.Body, req.Size = body, 5
		g, err := i.gather(t.Context(), &f, call, req, w)
		if err != nil || g == nil {
			t.Fatal(err)
		}
		g.free()
	}); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

// again is a body that can be read again.
type again struct{ left []byte }

func (a *again) Read(p []byte) (int, error) {
	n := copy(p, a.left)
	a.left = a.left[n:]
	return n, nil
}

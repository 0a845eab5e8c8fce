package fnv2_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"hob/faas"
	"hob/internal/api/fnv2"
)

// oci is the path at which Oracle's service has the function of http-stream.
func (n *edge) oci() string { return "/20181201/functions/" + n.fn.ID + "/actions/invoke" }

const signature = `Signature version="1",headers="date (request-target) host",keyId="ocid1.tenancy.oc1..a/ocid1.user.oc1..b/f1:n2",algorithm="rsa-sha256",signature="c2lnbmVk"`

func TestOCIInvocationIsOneOfTheFunction(t *testing.T) {
	var got, id string
	n := serve(t, func(_ context.Context, call *faas.Call, req *faas.Request, w http.ResponseWriter) error {
		body, err := io.ReadAll(req.Body)
		id, got = call.ID, lines(req.Header)+"\n"+string(body)
		w.Header().Set("Opc-Request-Id", "forged")
		io.WriteString(w, "meow")
		return err
	}, nil)
	resp, body := n.do("POST", n.oci(), strings.NewReader("cat"), "Fn-Intent: httprequest", "Fn-Invoke-Type: sync", "Is-Dry-Run: false",
		"Opc-Request-Id: csid1/2/3", "Authorization: "+signature, "Opc-Obo-Token: secret", "X-Content-Sha256: x", "X-B3-Traceid: 1", "X-B3-Sampled: 1", "Content-Type: a/b")
	n.says("answer", resp, body, 200, "meow")
	if resp.Header.Get("Opc-Request-Id") != "csid1/2/3" || resp.Header.Get("Fn-Call-Id") != id {
		t.Errorf("header %v", resp.Header)
	}
	want := "Content-Length: 3\nContent-Type: a/b\nFn-Intent: httprequest\nFn-Invoke-Type: sync\nIs-Dry-Run: false\nOpc-Request-Id: csid1/2/3\nX-B3-Sampled: 1\nX-B3-Traceid: 1\nX-Content-Sha256: x\ncat"
	if got != want {
		t.Errorf("the function saw\n%s\nwant\n%s", got, want)
	}
	resp, _ = n.do("POST", n.oci(), nil, "Authorization: Bearer of the function")
	if resp.Header.Get("Opc-Request-Id") != id || !strings.Contains(got, "Authorization: Bearer of the function") {
		t.Errorf("a request without a name: %v of call %s, the function saw\n%s", resp.Header, id, got)
	}
	for _, given := range [][]string{{"Bearer of the function", signature}, {signature, "Bearer of the function"}, {"signature x", "Bearer of the function", " " + signature}} {
		w, r := httptest.NewRecorder(), httptest.NewRequest("POST", n.oci(), nil)
		r.Header["Authorization"] = given
		n.Handler().ServeHTTP(w, r)
		if strings.Contains(strings.ToLower(got), "signature") || !strings.Contains(got, "Authorization: Bearer of the function") {
			t.Errorf("of the headers %q the function saw\n%s", given, got)
		}
	}
	if resp, _ = n.do("POST", n.oci(), nil, "Opc-Request-Id: "+strings.Repeat("x", 300)); resp.Header.Get("Opc-Request-Id") != id {
		t.Errorf("a name that is too long: %v", resp.Header)
	}
}

func TestOCIDetachedAndDryRun(t *testing.T) {
	var made []faas.CallKind
	n := serve(t, func(_ context.Context, call *faas.Call, _ *faas.Request, _ http.ResponseWriter) error {
		made = append(made, call.Kind)
		return nil
	}, nil)
	for _, tt := range []struct {
		header []string
		status int
		made   int
	}{
		{[]string{"Fn-Invoke-Type: detached"}, 202, 1},
		{[]string{"Fn-Invoke-Type: detached", "Is-Dry-Run: true"}, 202, 0},
		{[]string{"Is-Dry-Run: true"}, 200, 0},
	} {
		made = nil
		resp, body := n.do("POST", n.oci(), strings.NewReader("cat"), append(tt.header, "Opc-Request-Id: mine")...)
		n.says(fmt.Sprint(tt.header), resp, body, tt.status, "")
		if len(made) != tt.made || len(made) > 0 && made[0] != faas.CallAsync || resp.Header.Get("Opc-Request-Id") != "mine" {
			t.Errorf("%v: calls %v, header %v", tt.header, made, resp.Header)
		}
	}
}

// refusal checks an error of Oracle's service.
func (n *edge) refusal(what string, resp *http.Response, body string, status int, code, message string) {
	n.Helper()
	var e map[string]string
	if err := json.Unmarshal([]byte(body), &e); err != nil || resp.StatusCode != status || len(e) != 2 || e["code"] != code || !strings.Contains(e["message"], message) {
		n.Errorf("%s: %d %s, want %d %s %q", what, resp.StatusCode, body, status, code, message)
	}
}

func TestOCIRequestsThatAreWrong(t *testing.T) {
	n := serve(t, func(_ context.Context, _ *faas.Call, req *faas.Request, _ http.ResponseWriter) error {
		_, err := io.Copy(io.Discard, req.Body)
		return faas.Errorf(faas.FuncFailed, "%w", err)
	}, nil)
	large := func() io.Reader { return io.LimitReader(spaces{}, 6<<20+1) }
	const notFound, invalid = "NotAuthorizedOrNotFound", "InvalidParameter"
	for _, tt := range []struct {
		method, path string
		body         io.Reader
		header       []string
		status       int
		code, says   string
	}{
		{"POST", n.oci(), nil, []string{"Fn-Invoke-Type: async"}, 400, invalid, `fn-invoke-type: "async" is not one of: sync, detached`},
		{"POST", n.oci(), nil, []string{"Fn-Intent: guess"}, 400, invalid, `"guess" is not one of: httprequest, cloudevent`},
		{"POST", n.oci(), nil, []string{"Is-Dry-Run: maybe"}, 400, invalid, `"maybe"`},
		{"GET", n.oci(), nil, nil, 405, "MethodNotAllowed", "GET"},
		{"POST", "/20181201/functions/none/actions/invoke", nil, nil, 404, notFound, "Fn not found"},
		{"POST", "/20181201/functions/a/b/actions/invoke", nil, nil, 404, notFound, "Path not found"},
		{"POST", "/20181201/functions//actions/invoke", nil, nil, 404, notFound, "Path not found"},
		{"GET", "/20181201/applications", nil, nil, 404, notFound, "Path not found"},
		{"POST", n.oci(), large(), nil, 413, "RequestEntityTooLarge", "limit of 6 MB"},
		{"POST", n.oci(), strings.NewReader(strings.Repeat(" ", 6<<20+1)), nil, 413, "RequestEntityTooLarge", "limit of 6 MB"},
		{"POST", n.oci(), large(), []string{"Fn-Invoke-Type: detached"}, 413, "RequestEntityTooLarge", "limit of 6 MB"},
	} {
		what := fmt.Sprint(tt.method, " ", tt.path, " ", tt.header)
		resp, body := n.do(tt.method, tt.path, tt.body, append(tt.header, "Opc-Request-Id: mine")...)
		n.refusal(what, resp, body, tt.status, tt.code, tt.says)
		if resp.Header.Get("Opc-Request-Id") != "mine" {
			t.Errorf("%s: header %v", what, resp.Header)
		}
	}
	n = serve(t, text("x"), func(s *fnv2.Server) { s.MaxRequest = 10 })
	resp, body := n.do("POST", n.oci(), strings.NewReader("eleven byte"))
	n.refusal("a limit of the node", resp, body, 413, "RequestEntityTooLarge", "limit of 10 bytes")
	n = serve(t, text("x"), func(s *fnv2.Server) { s.NoInvoke = true })
	resp, body = n.do("POST", n.oci(), nil)
	n.refusal("a node that manages only", resp, body, 404, notFound, "Path not found")
}

type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestOCIFailuresHaveItsWords(t *testing.T) {
	for _, tt := range []struct {
		err    error
		status int
		code   string
		says   string
	}{
		{faas.Errorf(faas.FuncFailed, "%w", faas.ErrFunction), 502, "FunctionInvokeExecutionFailed", "function failed"},
		{faas.Errorf(faas.TimedOut, "30s"), 504, "FunctionInvokeExecutionTimeout", "Timed out"},
		{faas.Errorf(faas.FuncFailed, "%w", faas.ErrStartExited), 502, "FunctionInvokeContainerInitFail", "Container failed to initialize"},
		{faas.Errorf(faas.TimedOut, "%w", faas.ErrStartTimeout), 504, "FunctionInvokeContainerInitTimeout", "Container initialization timed out"},
		{faas.Errorf(faas.TimedOut, "%w", faas.ErrPullTimeout), 502, "FunctionInvokeImageNotAvailable", "Image pull timed out"},
		{faas.Errorf(faas.NotFound, "no image: %w", faas.ErrNoImage), 502, "FunctionInvokeImageNotAvailable", "no image"},
		{faas.Errorf(faas.Busy, "connection refused: %w", faas.ErrNoImage), 502, "FunctionInvokeImageNotAvailable", "connection refused"},
		{faas.Errorf(faas.Denied, "the registry wants a password"), 502, "FunctionInvokeImageNotAvailable", "password"},
		{faas.Errorf(faas.Busy, "no slot"), 429, "TooManyRequests", "Timed out - server too busy"},
		{faas.Errorf(faas.Invalid, "%w", faas.ErrNeverFits), 400, "InvalidParameter", "cannot be allocated"},
		{faas.Errorf(faas.Unsupported, "not here"), 501, "MethodNotImplemented", "not here"},
		{faas.Errorf(faas.Canceled, "it was canceled"), 444, "InternalServerError", "canceled"},
		{errors.New("open /var/lib/hob: permission denied"), 500, "InternalServerError", "internal server error"},
	} {
		n := serve(t, func(context.Context, *faas.Call, *faas.Request, http.ResponseWriter) error { return tt.err }, nil)
		resp, body := n.do("POST", n.oci(), nil)
		n.refusal(tt.err.Error(), resp, body, tt.status, tt.code, tt.says)
		if id := resp.Header.Get("Fn-Call-Id"); id == "" || resp.Header.Get("Opc-Request-Id") != id || (faas.KindOf(tt.err) == faas.Busy) != (resp.Header.Get("Retry-After") != "") {
			t.Errorf("%v: header %v", tt.err, resp.Header)
		}
	}
}

func TestTraceHeadersReachTheFunctionUnderTheirNames(t *testing.T) {
	var got http.Header
	n := serve(t, func(_ context.Context, _ *faas.Call, req *faas.Request, _ http.ResponseWriter) error {
		got = req.Header
		return nil
	}, nil)
	names := []string{"X-B3-Traceid", "X-B3-Spanid", "X-B3-Parentspanid", "X-B3-Sampled", "X-B3-Flags"}
	var given []string
	for i, name := range names {
		given = append(given, fmt.Sprint(name, ": ", i))
	}
	for _, path := range []string{n.invoke(), n.oci(), "/t/photos/http-stream", "/t/photos/http"} {
		got = nil
		n.do("POST", path, nil, given...)
		for i, name := range names {
			if got.Get(name) != fmt.Sprint(i) {
				t.Errorf("%s: the function has %v", path, got)
			}
		}
	}
}

package daemon_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"hob/client"
	"hob/faas"
	"hob/internal/config"
)

const lockKey = "thirty-two bytes are the least ok"

func withLock(c *config.Config) { c.JWTAuthKey = lockKey }

// signed is a token with these claims.
func signed(t *testing.T, method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
	t.Helper()
	token, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func goodToken(t *testing.T) string {
	return signed(t, jwt.SigningMethodHS256, []byte(lockKey), jwt.MapClaims{"exp": time.Now().Unix() + 3600})
}

// startLocked starts a daemon that wants tokens; the client of the node has one.
func startLocked(t *testing.T, change ...func(*config.Config)) *node {
	t.Helper()
	n := start(t, append(change, withLock)...)
	var err error
	if n.Client, err = client.New("http://"+n.addr, client.WithToken(goodToken(t))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Client.Close)
	return n
}

// families are requests of management in each API, and what its answer to one without
// a token begins with.
var families = []struct{ method, path, refusal string }{
	{"GET", "/api/apps", `{"error":{"kind":"denied","message":"`},
	{"PUT", "/api/apps/x", `{"error":{"kind":"denied","message":"`},
	{"GET", "/api/node", `{"error":{"kind":"denied","message":"`},
	{"GET", "/v1/apps", `{"error":"Invalid API Authorization token."}`},
	{"POST", "/v1/apps", `{"error":"Invalid API Authorization token."}`},
	{"GET", "/v1/apps/a/routes/%2Fx", `{"error":"Invalid API Authorization token."}`},
	{"GET", "/v1/routes", `{"error":"Invalid API Authorization token."}`},
	{"GET", "/tasks", `{"error":"Invalid API Authorization token."}`},
	{"DELETE", "/v1/tasks", `{"error":"Invalid API Authorization token."}`},
	{"GET", "/stats", `{"error":"Invalid API Authorization token."}`},
	{"GET", "/v2/apps", `{"message":"`},
	{"POST", "/v2/fns", `{"message":"`},
	{"GET", "/v2/runner/apps/a/triggerBySource/http/x", `{"message":"`},
	{"GET", "/funcs", "the token "},
	{"POST", "/v1.23/images/create", "the token "},
	{"GET", "/v2/", `{"errors":[{"code":"UNAUTHORIZED","message":"`},
	{"PUT", "/v2/a/manifests/1", `{"errors":[{"code":"UNAUTHORIZED","message":"`},
	{"GET", "/nobody/knows", `{"message":"`},
}

func TestEachAPIOfALockedNodeWantsAToken(t *testing.T) {
	n := startLocked(t)
	hour := time.Now().Unix() + 3600
	bad := map[string]string{
		"another key": signed(t, jwt.SigningMethodHS256, []byte("another"), jwt.MapClaims{"exp": hour}),
		"expired":     signed(t, jwt.SigningMethodHS256, []byte(lockKey), jwt.MapClaims{"exp": time.Now().Unix() - 60}),
		"HS512":       signed(t, jwt.SigningMethodHS512, []byte(lockKey), jwt.MapClaims{"exp": hour}),
		"none":        signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, jwt.MapClaims{"exp": hour}),
		"no token":    "",
	}
	for _, f := range families {
		for why, token := range bad {
			a := n.ask(f.method, f.path, "", "Authorization: Bearer "+token)
			if a.status != http.StatusUnauthorized || !strings.HasPrefix(a.body, f.refusal) || a.header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s %s, %s: %d %v %s, want 401 %s", f.method, f.path, why, a.status, a.header, a.body, f.refusal)
			}
		}
		if a := n.ask(f.method, f.path, ""); a.status != http.StatusUnauthorized {
			t.Errorf("%s %s without a header: %d %s", f.method, f.path, a.status, a.body)
		}
		if a := n.ask(f.method, f.path, "", "Authorization: Bearer "+goodToken(t)); a.status == http.StatusUnauthorized || a.status == http.StatusForbidden {
			t.Errorf("%s %s with a token: %d %s", f.method, f.path, a.status, a.body)
		}
	}
	for _, path := range []string{"/", "/version", "/healthz", "/readyz"} {
		if a := n.ask("GET", path, ""); a.status != http.StatusOK {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

func TestSocketOfALockedNodeWantsNoToken(t *testing.T) {
	n := startLocked(t)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", n.daemon.Socket())
	}
	local := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	for _, f := range families {
		req, err := http.NewRequestWithContext(t.Context(), f.method, "http://localhost"+f.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := local.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
			t.Errorf("%s %s: %s", f.method, f.path, resp.Status)
		}
	}
}

func TestCallsOfALockedNodeNeedNoTokenAndPassNoneOn(t *testing.T) {
	n := startLocked(t)
	token := "Authorization: Bearer " + goodToken(t)
	made := func(what, body string) string {
		a := n.ask("POST", "/v2/"+what, body, token)
		var made struct{ ID string }
		if err := json.Unmarshal([]byte(a.body), &made); err != nil || made.ID == "" {
			t.Fatalf("POST /v2/%s: %d %s", what, a.status, a.body)
		}
		return made.ID
	}
	app := made("apps", `{"name":"a"}`)
	fn := made("fns", `{"name":"f","app_id":"`+app+`","image":"`+n.image("fnfn")+`"}`)
	made("triggers", `{"name":"t","app_id":"`+app+`","fn_id":"`+fn+`","type":"http","source":"/s"}`)

	for _, path := range []string{"/invoke/" + fn, "/t/a/s", "/api/apps/a/functions/f/call", "/r/a/s", "/call/f/none"} {
		if a := n.ask("POST", path, "headers"); a.status == http.StatusUnauthorized || strings.HasPrefix(path, "/invoke") && a.status != http.StatusOK {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	for _, path := range []string{"/invoke/" + fn, "/api/apps/a/functions/f/call", "/t/a/s", "/r/a/s"} {
		if a := n.ask("POST", path, "headers", token); a.status != http.StatusOK || strings.Contains(a.body, "Authorization") || strings.Contains(a.body, "Request-Id") {
			t.Errorf("%s: the function has the token: %d %s", path, a.status, a.body)
		}
		if a := n.ask("POST", path, "headers", "Authorization: Bearer its own"); !strings.Contains(a.body, "Bearer its own") {
			t.Errorf("%s: the function has not what was sent to it: %d %s", path, a.status, a.body)
		}
	}
}

func TestClientsOfALockedNode(t *testing.T) {
	n := startLocked(t)
	if _, err := n.Apps(t.Context()); err != nil {
		t.Errorf("with a token: %v", err)
	}
	stranger, err := client.New("http://" + n.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if _, err := stranger.Apps(t.Context()); faas.KindOf(err) != faas.Denied || !strings.Contains(err.Error(), "token") {
		t.Errorf("without one: %v", err)
	}

	img, err := random.Image(1<<10, 1)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(n.addr+"/pushed:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img, remote.WithContext(t.Context())); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("a push without a token: %v", err)
	}
	for _, auth := range []authn.Authenticator{&authn.Basic{Username: "any", Password: goodToken(t)}, &authn.Bearer{Token: goodToken(t)}} {
		if err := remote.Write(tag, img, remote.WithContext(t.Context()), remote.WithAuth(auth)); err != nil {
			t.Errorf("a push with a token: %v", err)
		}
	}
}

func TestSignaturesOfHyperStandForATokenOnALockedNode(t *testing.T) {
	var cfg config.Config
	n := startLocked(t, withHyper, func(c *config.Config) { cfg = *c })
	if a := clientOf(n, cfg).manage("GET", "/funcs", ""); a.status != http.StatusOK {
		t.Errorf("signed: %d %s", a.status, a.body)
	}
	if a := n.ask("GET", "/funcs", "", "Authorization: Bearer "+goodToken(t)); a.status != http.StatusUnauthorized && a.status != http.StatusForbidden {
		t.Errorf("with a token in place of a signature: %d %s", a.status, a.body)
	}
}

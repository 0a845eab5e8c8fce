package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"hob/internal/config"
	"hob/internal/daemon"
	"hob/internal/sandbox/fake"
)

// newLocked starts a whole daemon that wants tokens, and returns its address.
func newLocked(t *testing.T, key string) string {
	t.Helper()
	cfg := config.Default()
	cfg.Data, cfg.Listen, cfg.Driver, cfg.Grace, cfg.JWTAuthKey = filepath.Join(t.TempDir(), "data"), "127.0.0.1:0", "fake", time.Second, key
	d, err := daemon.New(t.Context(), cfg, slog.New(slog.DiscardHandler), daemon.WithDriver(fake.New(programs())))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the daemon ended with %v", err)
		}
	})
	return "http://" + d.Addr()
}

func TestTokenOpensALockedServer(t *testing.T) {
	dir := t.TempDir()
	server := newLocked(t, "the key")
	hob := func(vars map[string]string, stdin, line string) (code int, stdout, stderr string) {
		vars["HOB_CONFIG_DIR"], vars["HOB_CONFIG"] = dir, "/dev/null"
		env, out, failed := testEnv(vars, stdin)
		code = run(t.Context(), env, strings.Fields(line))
		return code, out.String(), failed.String()
	}
	code, token, stderr := hob(map[string]string{"JWT_AUTH_KEY": "the key"}, "", "token --subject ann")
	if code != 0 {
		t.Fatalf("hob token: %d %s", code, stderr)
	}
	_, other, _ := hob(map[string]string{}, "another key\r\n", "token --key-file -")
	token, other = strings.TrimSpace(token), strings.TrimSpace(other)
	for _, tt := range []struct {
		name, line, stdin string
		vars              map[string]string
		code              int
	}{
		{"without", "app ls", "", map[string]string{"HOB_SERVER": server}, 5},
		{"of another key", "app ls", "", map[string]string{"HOB_SERVER": server, "HOB_TOKEN": other}, 5},
		{"in the environment", "app ls", "", map[string]string{"HOB_SERVER": server, "HOB_TOKEN": token}, 0},
		{"on the command line", "app ls --token " + token, "", map[string]string{"HOB_SERVER": server}, 0},
		{"in a file", "app ls --token-file -", token + "\n", map[string]string{"HOB_SERVER": server}, 0},
		{"kept", "context create lab --token-file - --server " + server, token, map[string]string{}, 0},
		{"chosen", "context use lab", "", map[string]string{}, 0},
		{"of the context", "app ls", "", map[string]string{}, 0},
	} {
		if code, stdout, stderr := hob(tt.vars, tt.stdin, tt.line); code != tt.code {
			t.Errorf("token %s: hob %s ends with %d, want %d: %s%s", tt.name, tt.line, code, tt.code, stdout, stderr)
		}
	}
}

func TestTokenSaysWhatItWasTold(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("the key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]struct {
		subject string
		expires time.Duration // 0: never
	}{
		"":                                   {"", time.Hour},
		"--expires 48h --subject Ann's":      {"Ann's", 48 * time.Hour},
		"--expires 0 --subject for-ever-one": {"for-ever-one", 0},
	} {
		env, stdout, stderr := testEnv(nil, "")
		if code := run(t.Context(), env, append([]string{"token", "--json", "--key-file", file}, strings.Fields(line)...)); code != 0 {
			t.Errorf("%s: %d %s", line, code, stderr)
			continue
		}
		var out struct {
			Token   string
			Expires *time.Time
		}
		if err := json.Unmarshal(stdout.Bytes(), &out); err != nil {
			t.Fatal(err)
		}
		var claims jwt.RegisteredClaims
		if _, err := jwt.ParseWithClaims(out.Token, &claims, func(*jwt.Token) (any, error) { return []byte("the key"), nil }); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		switch end := claims.ExpiresAt; {
		case claims.Subject != want.subject:
			t.Errorf("%s: subject %q", line, claims.Subject)
		case want.expires == 0 && (end != nil || out.Expires != nil):
			t.Errorf("%s: it expires %v", line, end)
		case want.expires > 0 && (end == nil || out.Expires == nil || !out.Expires.Equal(end.Time) || time.Until(end.Time) > want.expires || time.Until(end.Time) < want.expires-time.Minute):
			t.Errorf("%s: it expires %v, shown as %v", line, end, out.Expires)
		}
	}
}

func TestTokenWithoutAKeySaysWhereOneMayBe(t *testing.T) {
	for line, want := range map[string]struct {
		code  int
		words string
		stdin string
	}{
		"token":                          {2, "JWT_AUTH_KEY", ""},
		"token --key-file -":             {2, "there is none in -", "\n"},
		"token --key-file /none/":        {3, "/none/", ""},
		"token --expires -1s":            {2, "expired already", ""},
		"token --key-file - --subject x": {2, "limit of 1 MB", strings.Repeat("k", maxKey+1)},
	} {
		env, stdout, stderr := testEnv(map[string]string{"HOB_CONFIG": "/dev/null"}, want.stdin)
		if code := run(t.Context(), env, strings.Fields(line)); code != want.code || stdout.Len() > 0 || !strings.Contains(stderr.String(), want.words) {
			t.Errorf("hob %s: %d %s%s, want %d and %q", line, code, stdout, stderr, want.code, want.words)
		}
	}
}

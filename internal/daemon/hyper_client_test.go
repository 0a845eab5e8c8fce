package daemon_test

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hob/internal/config"
)

// hyper is the client of Hyper, as spec/transcripts/hyper-cli.txt has it.
type hyper struct {
	*node
	tls            *tls.Config
	client         *http.Client
	host           string // of the HTTPS address
	access, secret string
	last           time.Time // date of the last request of management
}

// withHyper gives the daemon an HTTPS address and a key, and lets functions share
// the network of the node.
func withHyper(c *config.Config) {
	withGate(c)
	c.TLSListen, c.HyperKeys = "127.0.0.1:0", []string{"AK:SK"}
}

// startHyper starts a daemon with the image ubuntu.
func startHyper(t *testing.T, change ...func(*config.Config)) *hyper {
	t.Helper()
	var cfg config.Config
	n := start(t, append(append([]func(*config.Config){withHyper}, change...), func(c *config.Config) { cfg = *c })...)
	tar, err := gateTar()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Load(t.Context(), bytes.NewReader(tar), "ubuntu"); err != nil {
		t.Fatal(err)
	}
	return clientOf(n, cfg)
}

// clientOf is a client that trusts the certificate that the node has made.
func clientOf(n *node, cfg config.Config) *hyper {
	n.t.Helper()
	h := &hyper{node: n, host: n.daemon.TLSAddr(), access: "AK", secret: "SK", tls: &tls.Config{RootCAs: x509.NewCertPool()}}
	cert, err := os.ReadFile(filepath.Join(cfg.Data, "tls/cert.pem"))
	if err != nil || !h.tls.RootCAs.AppendCertsFromPEM(cert) {
		n.t.Fatalf("the certificate: %v", err)
	}
	transport := &http.Transport{TLSClientConfig: h.tls, DisableCompression: true}
	h.client = &http.Client{Transport: transport}
	n.t.Cleanup(transport.CloseIdleConnections)
	return h
}

// hyperSignature signs a request as section 1 of spec/hyper-func.md says.
func hyperSignature(secret, method, path, query, host, hash, date, region string) string {
	mac := func(key []byte, text string) []byte {
		m := hmac.New(sha256.New, key)
		io.WriteString(m, text)
		return m.Sum(nil)
	}
	sum := func(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }
	scope := date[:8] + "/" + region + "/hyper/hyper_request"
	canonical := strings.Join([]string{
		method, strings.TrimPrefix(path, "/"), query,
		"content-type:application/json", "host:" + host, "x-hyper-content-sha256:" + hash, "x-hyper-date:" + date, "",
		"content-type;host;x-hyper-content-sha256;x-hyper-date", hash,
	}, "\n")
	key := []byte("HYPER" + secret)
	for _, part := range strings.Split(scope, "/") {
		key = mac(key, part)
	}
	return hex.EncodeToString(mac(key, strings.Join([]string{"HYPER-HMAC-SHA256", date, scope, sum(canonical)}, "\n")))
}

// request is one of management, with the headers of the client.
func (h *hyper) request(method, path, body string, at time.Time) *http.Request {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, "https://"+h.host+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	if body == "" {
		req.Body = nil
	}
	hash, date := fmt.Sprintf("%x", sha256.Sum256([]byte(body))), at.UTC().Format("20060102T150405Z")
	for name, value := range map[string]string{
		"User-Agent": "Docker-Client/1.10.17 (linux)", "Content-Type": "application/json", "Accept-Encoding": "gzip",
		"X-Hyper-Content-Sha256": hash, "X-Hyper-Date": date,
		"Authorization": "HYPER-HMAC-SHA256 Credential=" + h.access + "/" + date[:8] + "/us-west-1/hyper/hyper_request, " +
			"SignedHeaders=content-type;host;x-hyper-content-sha256;x-hyper-date, Signature=" +
			hyperSignature(h.secret, method, req.URL.Path, strings.ReplaceAll(req.URL.Query().Encode(), "+", "%20"), h.host, hash, date, "us-west-1"),
	} {
		req.Header.Set(name, value)
	}
	return req
}

func (h *hyper) do(req *http.Request) answer {
	h.t.Helper()
	resp, err := h.client.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Error(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// manage sends a request to management.
func (h *hyper) manage(method, path, body string) answer {
	h.t.Helper()
	if h.last.IsZero() {
		h.last = time.Now()
	}
	h.last = h.last.Add(-time.Second) // the client does not send the same within a second, and dates have no more
	return h.do(h.request(method, path, body, h.last))
}

// data sends a request to the data plane. A nil body is none.
func (h *hyper) data(method, path string, body io.Reader, headers ...string) answer {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, "https://"+h.host+path, body)
	if err != nil {
		h.t.Fatal(err)
	}
	req.Host = "localhost"
	req.Header.Set("User-Agent", "Go-http-client/1.1")
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		req.Header.Add(name, value)
	}
	return h.do(req)
}

// A fn is a function as Hyper shows it.
type fn struct {
	Name, ContainerSize, UUID string
	Timeout                   int
	Config                    struct {
		Env    []string
		Labels map[string]string
	}
}

// create makes a function of the smallest size; more is further members of its
// JSON, config and host members of its Config and HostConfig.
func (h *hyper) create(name, cmd, more string) fn {
	h.t.Helper()
	body := fmt.Sprintf(`{"Name":%q,"ContainerSize":"s1","Config":{"Cmd":%s,"Image":"ubuntu"}%s}`+"\n", name, cmd, more)
	a := h.manage("POST", "/v1.23/funcs/create", body)
	var f fn
	if err := json.Unmarshal([]byte(a.body), &f); a.status != 201 || err != nil || f.UUID == "" {
		h.t.Fatalf("create %s: %+v, %v", name, a, err)
	}
	return f
}

// gated makes a function that asks at the gate.
func (h *hyper) gate(g *gate, name string) fn {
	h.t.Helper()
	a := h.manage("POST", "/v1.23/funcs/create", fmt.Sprintf(
		`{"Name":%q,"ContainerSize":"s1","Config":{"Image":"ubuntu","Env":["GATE=%s"]},"HostConfig":{"NetworkMode":"host"}}`+"\n", name, g.addr))
	var f fn
	if err := json.Unmarshal([]byte(a.body), &f); a.status != 201 || err != nil {
		h.t.Fatalf("create %s: %+v, %v", name, a, err)
	}
	return f
}

func (f fn) at(plane string) string { return "/" + plane + "/" + f.Name + "/" + f.UUID }

// call calls a function and returns the id of the call.
func (h *hyper) call(f fn, payload string) string {
	h.t.Helper()
	return h.accepted(h.data("POST", f.at("call"), strings.NewReader(payload)))
}

func (h *hyper) accepted(a answer) string {
	h.t.Helper()
	var out map[string]string
	if err := json.Unmarshal([]byte(a.body), &out); a.status != 200 || err != nil || len(out) != 1 || out["CallId"] == "" {
		h.t.Fatalf("call: %+v, %v", a, err)
	}
	return out["CallId"]
}

func TestSignatureOfTheTranscript(t *testing.T) {
	got := hyperSignature("SK", "GET", "/v1.23/funcs", "", "127.0.0.1:2375", fmt.Sprintf("%x", sha256.Sum256(nil)), "20261121T021918Z", "us-west-1")
	if want := "ecb2fd322e7de1bff34519745dfa15ea1c4a73660f2f568726b13884ca7abe58"; got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
}

// follow upgrades a connection to the log of a function and returns its lines.
func (h *hyper) follow(f fn, query string) *bufio.Reader {
	h.t.Helper()
	conn, err := tls.Dial("tcp", h.host, h.tls)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(long))
	fmt.Fprintf(conn, "GET %s?%s HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Go-http-client/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", f.at("logs"), query)
	r := bufio.NewReader(conn)
	status, err := r.ReadString('\n')
	if err != nil || status != "HTTP/1.1 101 UPGRADED\r\n" {
		h.t.Fatalf("%q, %v; want 101", status, err)
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			h.t.Fatal(err)
		}
		if line == "\r\n" {
			return r
		}
	}
}

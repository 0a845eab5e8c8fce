package daemon

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/config"
)

// withTLS opens the HTTPS address of a daemon, serves there, and returns the log.
func withTLS(t *testing.T, data string, set func(*config.Config)) (net.Listener, *bytes.Buffer, error) {
	t.Helper()
	cfg := config.Default()
	cfg.Data, cfg.TLSListen = data, "127.0.0.1:0"
	if set != nil {
		set(&cfg)
	}
	var out bytes.Buffer
	d := &Daemon{cfg: cfg, log: slog.New(slog.NewTextHandler(&out, nil))}
	l, err := d.listenTLS()
	if l != nil {
		server := &http.Server{
			Handler:  http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }),
			ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo),
		}
		var served sync.WaitGroup
		served.Go(func() { server.Serve(l) })
		t.Cleanup(func() { server.Close(); served.Wait() })
	}
	return l, &out, err
}

// ask sends a request to l as a client that trusts the certificates of a file,
// and returns the certificate that it was shown.
func ask(t *testing.T, l net.Listener, host, trusted string, change func(*tls.Config)) (*x509.Certificate, error) {
	t.Helper()
	roots := x509.NewCertPool()
	data, err := os.ReadFile(trusted)
	if err != nil || !roots.AppendCertsFromPEM(data) {
		t.Fatalf("read %s: %v", trusted, err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	if change != nil {
		change(transport.TLSClientConfig)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	resp, err := (&http.Client{Transport: transport}).Get("https://" + net.JoinHostPort(host, port))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "HTTP/1.1" {
		t.Errorf("the server spoke %q, %v, want HTTP/1.1", body, err)
	}
	return resp.TLS.PeerCertificates[0], nil
}

func TestNoTLSWithoutAnAddress(t *testing.T) {
	l, _, err := withTLS(t, t.TempDir(), func(c *config.Config) { c.TLSListen = "" })
	if l != nil || err != nil {
		t.Errorf("got %v, %v, want neither", l, err)
	}
}

func TestCertificateIsMadeOnceAndTrustedAsAnAuthority(t *testing.T) {
	data := t.TempDir()
	named := func(c *config.Config) { c.Hosts, c.HyperHost = []string{"node.lan"}, "hyper.lan:2376" }
	l, out, err := withTLS(t, data, named)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := filepath.Join(data, "tls/cert.pem"), filepath.Join(data, "tls/key.pem")
	for _, name := range []string{cert, key} {
		if info, err := os.Stat(name); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v, want it for its owner alone", name, info, err)
		}
	}
	first, err := ask(t, l, "localhost", cert, nil)
	if err != nil {
		t.Fatal(err)
	}
	if log := out.String(); !strings.Contains(log, cert) || !strings.Contains(log, fingerprint(first.Raw)) {
		t.Errorf("the log names neither file nor fingerprint:\n%s", log)
	}
	machine, _ := os.Hostname()
	for _, name := range []string{"127.0.0.1", "::1", "node.lan", "hyper.lan", machine} {
		if err := first.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}

	l, out, err = withTLS(t, data, named)
	if err != nil {
		t.Fatal(err)
	}
	if out.Len() > 0 {
		t.Errorf("the second start says\n%s", out)
	}
	second, err := ask(t, l, "127.0.0.1", cert, nil)
	if err != nil || !second.Equal(first) {
		t.Errorf("after a restart the certificate is another, %v", err)
	}

	if _, out, err = withTLS(t, data, func(c *config.Config) { c.Hosts = []string{"new.lan"} }); err != nil || !strings.Contains(out.String(), "name=new.lan") {
		t.Errorf("a name that the certificate lacks: %v, log\n%s", err, out)
	}
	// A start that ended between the two files leaves one of them.
	if err := os.Remove(cert); err != nil {
		t.Fatal(err)
	}
	if l, _, err = withTLS(t, data, nil); err != nil {
		t.Fatal(err)
	}
	if third, err := ask(t, l, "127.0.0.1", cert, nil); err != nil || third.Equal(first) {
		t.Errorf("without its file the certificate is the old one, %v", err)
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	data := t.TempDir()
	l, _, err := withTLS(t, data, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = ask(t, l, "127.0.0.1", filepath.Join(data, "tls/cert.pem"), func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 })
	if err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.1 got %v, want a refusal of the version", err)
	}
}

func TestChangedCertificateIsTakenUp(t *testing.T) {
	one, two, files := t.TempDir(), t.TempDir(), t.TempDir()
	for _, data := range []string{one, two} {
		if _, _, err := withTLS(t, data, nil); err != nil {
			t.Fatal(err)
		}
	}
	cert, key := filepath.Join(files, "c.pem"), filepath.Join(files, "k.pem")
	at := time.Now()
	put := func(from, to string) {
		data, err := os.ReadFile(from)
		at = at.Add(time.Second) // a change is seen by time and size
		if err != nil || os.WriteFile(to, data, 0o600) != nil || os.Chtimes(to, at, at) != nil {
			t.Fatalf("put %s at %s: %v", from, to, err)
		}
	}
	put(filepath.Join(one, "tls/cert.pem"), cert)
	put(filepath.Join(one, "tls/key.pem"), key)
	l, out, err := withTLS(t, t.TempDir(), func(c *config.Config) { c.TLSCert, c.TLSKey = cert, key })
	if err != nil {
		t.Fatal(err)
	}
	first, err := ask(t, l, "127.0.0.1", filepath.Join(one, "tls/cert.pem"), nil)
	if err != nil {
		t.Fatal(err)
	}
	put(filepath.Join(two, "tls/cert.pem"), cert) // its key is still to come
	between, err := ask(t, l, "127.0.0.1", filepath.Join(one, "tls/cert.pem"), nil)
	if err != nil || !between.Equal(first) {
		t.Errorf("in the middle of a change the certificate is another: %v", err)
	}
	put(filepath.Join(two, "tls/key.pem"), key)
	after, err := ask(t, l, "127.0.0.1", filepath.Join(two, "tls/cert.pem"), nil)
	if err != nil || after.Equal(first) {
		t.Errorf("the new certificate is not shown: %v", err)
	}
	if log := out.String(); strings.Count(log, "stays what it was") != 1 || !strings.Contains(log, "the certificate has changed") {
		t.Errorf("the log says\n%s", log)
	}
}

func TestBadCertificateNamesItsFiles(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	for _, data := range []string{one, two} {
		if _, _, err := withTLS(t, data, nil); err != nil {
			t.Fatal(err)
		}
	}
	cert, key := filepath.Join(one, "tls/cert.pem"), filepath.Join(two, "tls/key.pem")
	for _, files := range [][2]string{{cert, key}, {cert, "/no/such/key"}, {"/no/such/cert", key}, {key, cert}} {
		_, _, err := withTLS(t, t.TempDir(), func(c *config.Config) { c.TLSCert, c.TLSKey = files[0], files[1] })
		if faas.KindOf(err) != faas.Invalid || !strings.Contains(fmt.Sprint(err), files[0]) || !strings.Contains(fmt.Sprint(err), files[1]) {
			t.Errorf("%v got %v, want both files named", files, err)
		}
	}
}

func TestTakenTLSAddressIsNamed(t *testing.T) {
	data := t.TempDir()
	l, _, err := withTLS(t, data, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = withTLS(t, data, func(c *config.Config) { c.TLSListen = l.Addr().String() })
	if faas.KindOf(err) != faas.Conflict || !strings.Contains(fmt.Sprint(err), "--tls-listen") {
		t.Errorf("got %v, want a Conflict that names --tls-listen", err)
	}
}

package logs_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"hob/faas"
	"hob/internal/logs"
)

// sysMessage is a message of RFC 5424, as the test reads it.
type sysMessage struct {
	priority                        int
	at                              time.Time
	host, app, proc, id, data, text string
}

// grammar is the RFC's, with its limits.
var grammar = regexp.MustCompile(`(?s)^<(\d{1,3})>1 (\S+) ([!-~]{1,255}) ([!-~]{1,48}) ([!-~]{1,128}) ([!-~]{1,32}) (\[[!-~]{1,32}(?: [!-~]{1,32}="(?:[^"\\\]]|\\["\\\]])*")*\]) (.*)$`)

func parseSys(t *testing.T, raw []byte) (m sysMessage) {
	t.Helper()
	f := grammar.FindStringSubmatch(string(raw))
	if f == nil || !utf8.Valid(raw) {
		t.Fatalf("%q is no message of RFC 5424", raw)
	}
	m.priority, _ = strconv.Atoi(f[1])
	at, err := time.Parse(time.RFC3339Nano, f[2])
	if err != nil || len(f[2]) != len("2006-01-02T15:04:05.000000Z") {
		t.Fatalf("time %q (%v), want one in UTC with microseconds", f[2], err)
	}
	m.at, m.host, m.app, m.proc, m.id, m.data, m.text = at, f[3], f[4], f[5], f[6], f[7], f[8]
	return m
}

// next reads one message of a stream: a line; or, if it does not begin as one, its
// length, a space, and so many bytes, of which the last is a line end.
func next(t *testing.T, from *bufio.Reader) sysMessage {
	t.Helper()
	if !counted(t, from) {
		line, err := from.ReadBytes('\n')
		if err != nil || len(line) > 8000 {
			t.Fatalf("line %q: %v", line, err)
		}
		return parseSys(t, line[:len(line)-1])
	}
	count, err := from.ReadString(' ')
	n, err2 := strconv.Atoi(strings.TrimSuffix(count, " "))
	raw := make([]byte, max(0, n))
	_, err3 := io.ReadFull(from, raw)
	if err != nil || err2 != nil || err3 != nil || n > 8000 || !bytes.HasSuffix(raw, []byte("\n")) || bytes.Count(raw, []byte("\n")) != 1 {
		t.Fatalf("frame %q %q: %v, %v, %v", count, raw, err, err2, err3)
	}
	return parseSys(t, raw[:n-1])
}

// counted reports whether the next message has its length before it.
func counted(t *testing.T, from *bufio.Reader) bool {
	t.Helper()
	first, err := from.Peek(1)
	if err != nil {
		t.Fatal(err)
	}
	return first[0] != '<'
}

// accept takes one connection and gives it 20 s.
func accept(t *testing.T, l net.Listener) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c, bufio.NewReader(c)
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// to says that every function's lines go to one server.
func to(target string) func(string) logs.Source {
	return func(string) logs.Source {
		return logs.Source{Syslog: target, AppID: "01APP", App: "shop", Func: "resize"}
	}
}

func TestLinesReachAServerOfStreams(t *testing.T) {
	certFile, keyFile, roots := certificate(t)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for scheme, l := range map[string]net.Listener{
		"tcp":     listen(t, "tcp", "127.0.0.1:0"),
		"unix":    listen(t, "unix", filepath.Join(dir, "s")),
		"tcp+tls": tls.NewListener(listen(t, "tcp", "127.0.0.1:0"), &tls.Config{Certificates: []tls.Certificate{pair}}),
	} {
		t.Run(scheme, func(t *testing.T) {
			s := open(t, logs.Config{Dir: t.TempDir(), SyslogRoots: roots, Log: logTo(t.Output()), Syslog: to(scheme + "://" + l.Addr().String())})
			before := time.Now().Truncate(time.Microsecond)
			write(t, s, "f", "01CALL", "one\n\ntwo \xff\x00\x1b\r\n")
			out := s.Writer("f", "", "stdout")
			fmt.Fprintln(out, "three")
			s.Writer("f", "", "hob").Write([]byte("not of the function\n"))
			s.Event("f", faas.Event{Name: faas.EventRunning, Call: "01CALL"})
			fmt.Fprint(out, strings.Repeat("ä", 5000))
			out.Close()

			_, from := accept(t, l)
			if got := counted(t, from); got != (scheme == "tcp+tls") {
				t.Errorf("messages are counted: %v", got)
			}
			first := next(t, from)
			if first.at.Before(before) || first.at.After(time.Now()) {
				t.Errorf("time %v, want now", first.at)
			}
			host, _ := os.Hostname()
			first.at = time.Time{}
			if want := (sysMessage{27, time.Time{}, host, "shop.resize", "app_id=01APP,fn_id=f", "01CALL",
				`[hob@32473 app="shop" fn="resize" app_id="01APP" fn_id="f" call_id="01CALL"]`, "one"}); first != want {
				t.Errorf("got  %+v\nwant %+v", first, want)
			}
			for _, want := range []string{"", "two \uFFFD\x00\x1b"} {
				if m := next(t, from); m.text != want || m.priority != 27 {
					t.Errorf("got %+v, want text %q", m, want)
				}
			}
			if m := next(t, from); m.text != "three" || m.priority != 30 || m.id != "-" || strings.Contains(m.data, "call_id") {
				t.Errorf("got %+v, want stdout of no call", m)
			}
			if a, b := next(t, from), next(t, from); a.text+b.text != strings.Repeat("ä", 5000) || len(a.text) < 7000 {
				t.Errorf("a long line came as %d and %d bytes", len(a.text), len(b.text))
			}
		})
	}
}

func TestLinesReachAServerOfDatagrams(t *testing.T) {
	for scheme, limit := range map[string]int{"udp": 2048, "unixgram": 8000} {
		t.Run(scheme, func(t *testing.T) {
			address := "127.0.0.1:0"
			if scheme == "unixgram" {
				address = filepath.Join(t.TempDir(), "s")
			}
			c, err := net.ListenPacket(scheme, address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(20 * time.Second))
			s := open(t, logs.Config{Dir: t.TempDir(), Log: logTo(t.Output()), Syslog: to(scheme + "://" + c.LocalAddr().String())})
			long := strings.Repeat("ö", 4000)
			write(t, s, "f", "01CALL", "one\n"+long+"\nlast")
			var got []string
			buf := make([]byte, 65536)
			for len(got) == 0 || got[len(got)-1] != "last" {
				n, _, err := c.ReadFrom(buf)
				if err != nil {
					t.Fatal(err)
				}
				if n > limit {
					t.Errorf("a datagram of %d bytes, want %d at most", n, limit)
				}
				got = append(got, parseSys(t, buf[:n]).text)
			}
			if got[0] != "one" || strings.Join(got[1:len(got)-1], "") != long {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestNamesThatDoNotFitAHeaderAreWholeInTheStructuredData(t *testing.T) {
	l := listen(t, "tcp", "127.0.0.1:0")
	s := open(t, logs.Config{Dir: t.TempDir(), Syslog: func(string) logs.Source {
		return logs.Source{Syslog: "tcp://" + l.Addr().String(), AppID: strings.Repeat("A", 300), App: "läden " + strings.Repeat("x", 60), Func: `a"b]c\d`}
	}})
	write(t, s, "f", strings.Repeat("C", 60), "x\n")
	_, from := accept(t, l)
	m := next(t, from)
	if want := "l_den_" + strings.Repeat("x", 42); m.app != want {
		t.Errorf("APP-NAME %q, want %q", m.app, want)
	}
	if want := `app="läden ` + strings.Repeat("x", 60) + `" fn="a\"b\]c\\d"`; !strings.Contains(m.data, want) {
		t.Errorf("structured data %s, want it to hold %s", m.data, want)
	}
}

func TestLinesWaitForAServerThatIsNotThereYet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s := open(t, logs.Config{Dir: t.TempDir(), Log: logTo(t.Output()), Syslog: to("unix://" + path)})
	for i := range 100 {
		write(t, s, "f", "c", fmt.Sprintln(i))
	}
	var said string
	for line, err := range s.Follow(t.Context(), logs.Selection{Function: "f", Tail: -1, Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if line.Stream == "hob" {
			said = line.Text
			break
		}
	}
	if want := "… lines wait for unix://" + path + ": dial unix " + path; !strings.HasPrefix(said, want) {
		t.Errorf("the log says %q, want %q", said, want)
	}
	_, from := accept(t, listen(t, "unix", path))
	for i := range 100 {
		if m := next(t, from); m.text != strconv.Itoa(i) {
			t.Fatalf("got %q, want %d", m.text, i)
		}
	}
}

func TestServerThatComesBackGetsTheNextLines(t *testing.T) {
	l := listen(t, "tcp", "127.0.0.1:0")
	s := open(t, logs.Config{Dir: t.TempDir(), Log: logTo(t.Output()), Syslog: to("tcp://" + l.Addr().String())})
	for i := range 20 {
		write(t, s, "f", "c", fmt.Sprintln(i))
		c, from := accept(t, l)
		if m := next(t, from); m.text != strconv.Itoa(i) {
			t.Fatalf("got %q, want %d", m.text, i)
		}
		c.(*net.TCPConn).CloseWrite()
		if _, err := from.ReadByte(); err != io.EOF { // it has seen that we left
			t.Fatalf("the connection goes on: %v", err)
		}
		c.Close()
	}
}

func TestServerWithAnotherCertificateGetsNothing(t *testing.T) {
	certFile, keyFile, _ := certificate(t)
	_, _, others := certificate(t)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	l := tls.NewListener(listen(t, "tcp", "127.0.0.1:0"), &tls.Config{Certificates: []tls.Certificate{pair}})
	s, stop := start(t, logs.Config{Dir: t.TempDir(), SyslogRoots: others, Log: logTo(t.Output()), Syslog: to("tcp+tls://" + l.Addr().String())})
	defer stop()
	write(t, s, "f", "c", "secret\n")
	c, _ := accept(t, l)
	if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Fatalf("it was sent %d bytes, %v", n, err)
	}
	l.Close()
	stop()
	if got := s.SyslogDropped(); got != 1 {
		t.Errorf("%d lines dropped, want 1", got)
	}
	var said []string
	for _, line := range texts(read(t, s, logs.Selection{Function: "f", Tail: -1})) {
		if strings.Contains(line, "not sent to tcp+tls://"+l.Addr().String()) {
			said = append(said, line)
		}
	}
	if len(said) != 1 || !strings.HasPrefix(said[0], "… 1 line not sent to ") {
		t.Errorf("the log says %q, want that one line was not sent", said)
	}
}

func TestOnlyWhatCanBeReachedIsASyslogServer(t *testing.T) {
	for _, good := range []string{
		"", "tcp://h", "tcp://h:1", "udp://192.0.2.1:65535", "tcp+tls://[::1]:6514", "unix:///" + strings.Repeat("p", 106), "unixgram:///run/log", "UDP://h:514", "TCP+TLS://h",
	} {
		if err := faas.CheckSyslog(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for bad, why := range map[string]string{
		"http://h": "use tcp", "tcp://": "names no server", "tcp://:514": "names no server", "unix://run/log": "names no server", "unix:log": "names no server",
		"tcp://h?n=1": "a query", "tcp://h?": "a query", "tcp://h#n": "a fragment", "tcp://u:p@h": "a user", "unix:///log?n": "a query",
		"tcp://h:0": "1 to 65535", "udp://h:65536": "1 to 65535", "tcp+tls://h:99999999999999999999": "1 to 65535",
		"unix:///" + strings.Repeat("p", 107): "at most 107 bytes, this one has 108", "unixgram:///a%00b": "no zero byte",
	} {
		if err := faas.CheckSyslog(bad); faas.KindOf(err) != faas.Invalid || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want %q", bad, err, why)
		}
	}
}

func TestSchemeInCapitalsIsTheSame(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	s := open(t, logs.Config{Dir: t.TempDir(), Log: logTo(t.Output()), Syslog: to("UDP://" + conn.LocalAddr().String())})
	write(t, s, "f", "c", "one\ntwo\n")
	for _, want := range []string{"one", "two"} {
		raw := make([]byte, 4<<10)
		n, _, err := conn.ReadFrom(raw)
		if err != nil {
			t.Fatal(err)
		}
		if m := parseSys(t, raw[:n]); m.text != want {
			t.Errorf("datagram %q, want %q", m.text, want)
		}
	}
}

func TestLinesGoWhereTheAppSaysNow(t *testing.T) {
	one, two := listen(t, "tcp", "127.0.0.1:0"), listen(t, "tcp", "127.0.0.1:0")
	var target atomic.Pointer[string]
	point := func(target2 string) { target.Store(&target2) }
	point("")
	s := open(t, logs.Config{Dir: t.TempDir(), Syslog: func(string) logs.Source { return logs.Source{Syslog: *target.Load()} }})
	w := s.Writer("f", "c", "stderr")
	defer w.Close()
	fmt.Fprintln(w, "nobody's")
	point("tcp://" + one.Addr().String())
	fmt.Fprintln(w, "one's")
	point("tcp://" + two.Addr().String())
	fmt.Fprintln(w, "two's")
	point("")
	fmt.Fprintln(w, "nobody's again")
	for _, c := range []struct {
		l    net.Listener
		want string
	}{{one, "one's"}, {two, "two's"}} {
		_, from := accept(t, c.l)
		if m := next(t, from); m.text != c.want {
			t.Errorf("got %q, want %q", m.text, c.want)
		}
	}
	wantTexts(t, "the log", read(t, s, logs.Selection{Function: "f", Tail: -1}), "nobody's", "one's", "two's", "nobody's again")
}

func TestLinesOverTheLimitOfAFunctionAreNotSent(t *testing.T) {
	l := listen(t, "tcp", "127.0.0.1:0")
	s := open(t, logs.Config{Dir: t.TempDir(), PerSecond: 100, Syslog: to("tcp://" + l.Addr().String())})
	write(t, s, "f", "c", "first\n"+strings.Repeat("x", 200)+"\n")
	write(t, s, "f", "c", "last\n")
	_, from := accept(t, l)
	if got := []string{next(t, from).text, next(t, from).text}; !slices.Equal(got, []string{"first", "last"}) {
		t.Errorf("got %q", got)
	}
}

// certificate makes a certificate of 127.0.0.1 that signs itself, and returns it
// as files and as roots.
func certificate(t *testing.T) (certFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AddCert(cert)
	return certFile, keyFile, roots
}

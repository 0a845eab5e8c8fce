package logs_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hob/internal/logs"
	"hob/internal/testenv"
)

// rsyslog runs rsyslogd in the foreground until the test ends, with inputs of each
// kind. It writes a line for each message into the file that messages returns the
// lines of.
type rsyslog struct {
	file string
	urls map[string]string // by scheme
}

func startRsyslog(t *testing.T, certFile, keyFile string) *rsyslog {
	t.Helper()
	program := testenv.NeedTool(t, "rsyslogd")
	drivers, _ := filepath.Glob("/usr/lib/*/rsyslog/lmnsd_ossl.so")
	testenv.SkipUnless(t, len(drivers) > 0, "needs rsyslog's TLS driver", "on Debian: apt-get install rsyslog-openssl")
	dir, err := os.MkdirTemp("", "rsyslog-") // a short name: the address of a socket has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	tcp, secure, udp := freePorts(t)
	r := &rsyslog{file: filepath.Join(dir, "messages"), urls: map[string]string{
		"tcp":      "tcp://" + tcp,
		"tcp+tls":  "tcp+tls://" + secure,
		"udp":      "udp://" + udp,
		"unix":     "unix://" + filepath.Join(dir, "stream"),
		"unixgram": "unixgram://" + filepath.Join(dir, "datagrams"),
	}}
	port := func(scheme string) string { return r.urls[scheme][strings.LastIndexByte(r.urls[scheme], ':')+1:] }
	config := fmt.Sprintf(`
global(workDirectory=%q defaultNetstreamDriverCAFile=%q defaultNetstreamDriverCertFile=%q defaultNetstreamDriverKeyFile=%q)
template(name="fields" type="string" string="%%inputname%%|%%pri-text%%|%%timestamp:::date-rfc3339%%|%%hostname%%|%%app-name%%|%%procid%%|%%msgid%%|%%structured-data%%|%%msg%%\n")
module(load="imtcp" StreamDriver.Name="ossl" StreamDriver.Mode="1" StreamDriver.AuthMode="anon")
module(load="imptcp")
module(load="imudp")
module(load="imuxsock" SysSock.Use="off")
input(type="imtcp" address="127.0.0.1" port="%s")
input(type="imptcp" address="127.0.0.1" port="%s")
input(type="imptcp" path="%s")
input(type="imudp" address="127.0.0.1" port="%s")
input(type="imuxsock" socket="%s" useSpecialParser="off" parseHostname="on" useSysTimeStamp="off" ignoreTimestamp="off")
action(type="omfile" file="%s" template="fields")
`, dir, certFile, certFile, keyFile, port("tcp+tls"), port("tcp"), filepath.Join(dir, "stream"), port("udp"), filepath.Join(dir, "datagrams"), r.file)
	configFile := filepath.Join(dir, "rsyslog.conf")
	if err := os.WriteFile(configFile, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd := exec.Command(program, "-n", "-f", configFile, "-i", filepath.Join(dir, "pid"))
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait()
		timer.Stop()
		if t.Failed() {
			t.Logf("rsyslogd said:\n%s", said.Bytes())
		}
	})
	for _, target := range r.urls {
		r.await(t, target)
	}
	return r
}

// await waits until rsyslogd listens, which the kernel's tables say: a connection that
// ends as it begins may take a later one with it there (imptcp closes a descriptor
// that is another's already), and who tries whether a port is free takes it.
func (r *rsyslog) await(t *testing.T, target string) {
	t.Helper()
	scheme, address, _ := strings.Cut(target, "://")
	table, entry := "unix", regexp.QuoteMeta(address)+"\n"
	if _, port, err := net.SplitHostPort(address); err == nil {
		table = strings.TrimSuffix(scheme, "+tls")
		state := map[string]string{"tcp": "0A", "udp": "07"}[table]
		n, _ := strconv.Atoi(port)
		entry = fmt.Sprintf(` 0100007F:%04X \S+ %s `, n, state)
	}
	listens := regexp.MustCompile(entry)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		data, err := os.ReadFile("/proc/net/" + table)
		if err != nil {
			t.Fatal(err)
		}
		if listens.Match(data) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("rsyslogd does not listen at %s after 20 s", target)
		}
	}
}

// freePorts returns addresses of this machine on which nobody listens, two of TCP
// and one of UDP. They are none of those that the kernel gives to whoever asks for
// any port, as the tests of other packages do in the meantime.
func freePorts(t *testing.T) (tcp, secure, udp string) {
	t.Helper()
	some := func() string { return fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(10_000)) }
	for tcp == "" || secure == "" || udp == "" {
		address := some()
		if l, err := net.Listen("tcp", address); err == nil {
			defer l.Close() // when both are found
			tcp, secure = address, tcp
		}
		address = some()
		if c, err := net.ListenPacket("udp", address); err == nil {
			defer c.Close()
			udp = address
		}
	}
	return tcp, secure, udp
}

// messages waits until there are n whole lines, and returns all.
func (r *rsyslog) messages(t *testing.T, n int) []string {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		data, _ := os.ReadFile(r.file)
		lines := strings.Split(string(data), "\n")
		lines = lines[:len(lines)-1] // the last one has not ended
		if len(lines) >= n || time.Now().After(end) {
			return lines
		}
	}
}

func TestRsyslogReadsEachFieldOverEveryTransport(t *testing.T) {
	certFile, keyFile, roots := certificate(t)
	r := startRsyslog(t, certFile, keyFile)
	s := open(t, logs.Config{Dir: t.TempDir(), SyslogRoots: roots, Log: logTo(t.Output()), Syslog: func(id string) logs.Source {
		return logs.Source{Syslog: r.urls[strings.ReplaceAll(id, "-", "+")], AppID: "01APP", App: "shop", Func: `re"size`}
	}})
	var want []string
	for scheme, input := range map[string]string{"tcp": "imptcp", "tcp+tls": "imtcp", "udp": "imudp", "unix": "imptcp", "unixgram": "imuxsock"} {
		id := strings.ReplaceAll(scheme, "+", "-")
		write(t, s, id, "01CALL", "Grüße über <"+scheme+">\n\n")
		out := s.Writer(id, "", "stdout")
		fmt.Fprintln(out, "ready")
		out.Close()
		host, _ := os.Hostname()
		fields := fmt.Sprintf(`|TIME|%s|shop.re"size|app_id=01APP,fn_id=%s|%%s|[hob@32473 app="shop" fn="re\"size" app_id="01APP" fn_id="%s"%%s]|`, host, id, id)
		of, ofNone := fmt.Sprintf(fields, "01CALL", ` call_id="01CALL"`), fmt.Sprintf(fields, "-", "")
		want = append(want, input+"|daemon.err"+of+"Grüße über <"+scheme+">", input+"|daemon.err"+of, input+"|daemon.info"+ofNone+"ready")
	}
	slices.Sort(want)
	stamp := regexp.MustCompile(`\|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\|`)
	got := r.messages(t, len(want))
	for i := range got {
		got[i] = stamp.ReplaceAllString(got[i], "|TIME|")
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("rsyslogd wrote\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	long := strings.Repeat("x", 20_000)
	for _, scheme := range []string{"tcp", "udp"} {
		write(t, s, scheme, "01CALL", long+"\n")
	}
	text := make(map[string]int) // bytes, by input
	for _, line := range r.messages(t, len(want)+3+11)[len(want):] {
		input, _, _ := strings.Cut(line, "|")
		text[input] += len(line[strings.LastIndexByte(line, '|')+1:])
	}
	for _, input := range []string{"imptcp", "imudp"} {
		if text[input] != len(long) {
			t.Errorf("%s wrote %d bytes of a line of %d", input, text[input], len(long))
		}
	}
}

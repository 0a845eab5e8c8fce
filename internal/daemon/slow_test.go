package daemon_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"hob/client"
	"hob/faas"
)

// TestCallersWhoSendSlowlyDoNotKeepOthersWaiting: the only sandbox is not theirs.
func TestCallersWhoSendSlowlyDoNotKeepOthersWaiting(t *testing.T) {
	n := startLambda(t)
	timeout := client.Duration(5 * time.Minute)
	n.lambda("f", func(s *client.Settings) { s.Timeout, s.MaxConcurrency = &timeout, ptr(1) })
	n.hot("hot", n.hotImage(), func(s *client.Settings) { s.Timeout, s.MaxConcurrency = &timeout, ptr(1) })
	for name, said := range map[string]string{"f": "{}", "hot": "count"} {
		if _, err := n.CreateTrigger(t.Context(), faas.DefaultApp, name, name, client.TriggerSettings{Source: ptr("/" + name)}); err != nil {
			t.Fatal(err)
		}
		n.say(name, said) // it has a container
		for _, path := range []string{"/t/default/" + name, "/api/apps/default/functions/" + name + "/call"} {
			conn, err := net.Dial("tcp", n.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n", path)
			if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") { // it reads the body now
				t.Fatalf("%s: %q, %v", path, line, err)
			}
			io.WriteString(conn, "1")
		}
		if _, err := n.say(name, said); err != nil {
			t.Fatalf("%s: an honest caller: %v", name, err)
		}
		if n.busy() != 0 {
			t.Errorf("%s: those who send slowly have a container", name)
		}
	}
}

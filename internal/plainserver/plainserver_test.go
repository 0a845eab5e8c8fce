package plainserver

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestMessageSize(t *testing.T) {
	for message, want := range map[string]int{
		"": 0, "GET / HTTP/1.1\r\nHost: x\r\n": 0, "GET / HTTP/1.1\r\n\r\n": 18,
		"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\na": 17 + 19 + 2 + 3,
	} {
		if got := MessageSize([]byte(message)); got != want {
			t.Errorf("%q has %d bytes, want %d", message, got, want)
		}
	}
}

func TestEachRequestIsAnswered(t *testing.T) {
	a, b, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c, d, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	alone() // whoever waits in the kernel would keep the world from being stopped
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		answer(int(a.Fd()), int(d.Fd()), nil)
	}()
	for range 3 {
		io.WriteString(b, "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhiGET / HTTP/1.1\r\n\r\n")
		got := make([]byte, 2*len(Answer))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != Answer+Answer {
			t.Fatalf("answer %q, %v", got, err)
		}
	}
	b.Close()
	<-ended
}

func TestSocketAppearsWhenItCanBeUsed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	go Socket(path) // for the rest of the process
	for {
		if _, err := os.Stat(path); err == nil {
			break
		}
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\n\r\n")
	got := make([]byte, len(Answer))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != Answer {
		t.Errorf("answer %q, %v", got, err)
	}
}

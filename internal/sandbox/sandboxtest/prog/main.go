// Command prog is package program as a program: sandboxtest builds it for drivers
// that execute real programs. The verbs that only such a driver needs are here:
// those that use memory, processes and files for real.
package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"hob/internal/sandbox/sandboxtest/program"
)

func main() {
	os.Exit(run(os.Args))
}

func run(args []string) int {
	verb := ""
	if len(args) > 1 {
		verb = args[1]
	}
	switch verb {
	case "hog": // memory, megabyte by megabyte, until killed or the number is reached
		n, _ := strconv.Atoi(args[2])
		var held [][]byte
		for range n {
			block := make([]byte, 1<<20)
			for i := range block {
				block[i] = 1
			}
			held = append(held, block)
		}
		fmt.Printf("held %d MB", len(held))
	case "attack":
		fmt.Print(attack(args[2]))
	case "attacks":
		attackAll(args[2:])
	case "rights":
		printRights()
	case "descriptors":
		descriptors()
	case "swap": // sockets and links to the socket of others
		fmt.Println(swap(args[2], args[3]))
	case "pass": // descriptors to who connects
		if err := greet(args[2]+"/a", []int{0, 1, 2, 0, 1, 2}); err != nil {
			fmt.Println(err)
		}
		fmt.Println("ready")
		select {}
	case "bomb":
		n, _ := strconv.Atoi(args[3])
		fmt.Println(bomb(args[2], n<<20))
	case "storm":
		fmt.Println(storm(args[2]))
	case "take": // as much as there is of something, and show the limits
		limits, _ := os.ReadFile("/proc/self/limits")
		n, err := take(args[2])
		fmt.Printf("%d: %v\n%s", n, err, limits)
	case "orphan": // leave a child that holds the streams, and end
		c := exec.Command(args[0], "rest")
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		if err := c.Start(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Print("left")
	case "die": // by a signal
		n, _ := strconv.Atoi(args[2])
		signal.Reset(syscall.Signal(n))
		syscall.Kill(os.Getpid(), syscall.Signal(n))
		return 70 // the kernel keeps a signal from the first process of a PID namespace
	case "crash": // as a child's parent: the first process cannot kill itself by a signal
		var p *int
		fmt.Println(*p)
	case "spin": // use a processor
		d, _ := time.ParseDuration(args[2])
		for begin := time.Now(); time.Since(begin) < d; {
		}
	case "spinners": // children that use a processor until they are killed
		n, _ := strconv.Atoi(args[2])
		for range n {
			c := exec.Command(args[0], "spin", "1h")
			if err := c.Start(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
		fmt.Print("ready\n")
		for {
			exec.Command(args[0], "exit", "0").Run() // and new ones all the time
		}
	case "dial": // the network
		c, err := net.DialTimeout("tcp", args[2], 10*time.Second)
		if err == nil {
			c.Close()
			fmt.Print("connected")
			return 0
		}
		fmt.Print(err)
	case "ask": // who answers at addresses
		for _, addr := range args[2:] {
			fmt.Println(addr, ask(addr))
		}
	case "send": // a datagram from each of some addresses, which says the address
		for _, from := range args[3:] {
			fmt.Println(from, send(args[2], from))
		}
	case "devices": // of the network, with their addresses
		printDevices()
	case "welcome": // who connects to a port
		l, err := net.Listen("tcp", ":"+args[2])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		printDevices()
		os.Stdout.Close()
		for {
			if c, err := l.Accept(); err == nil {
				fmt.Fprint(c, "welcome")
				c.Close()
			}
		}
	case "network": // its name
		name, _ := os.Readlink("/proc/self/ns/net")
		fmt.Print(name)
	case "cat":
		text, err := os.ReadFile(args[2])
		if err != nil {
			fmt.Print(err)
			return 1
		}
		os.Stdout.Write(text)
	case "open": // files to read and write
		for _, file := range args[2:] {
			f, err := os.OpenFile(file, os.O_RDWR, 0)
			if f.Close(); err != nil {
				fmt.Println(file, err)
				continue
			}
			fmt.Println(file, "ok")
		}
	case "write": // bytes into a file
		n, _ := strconv.Atoi(args[3])
		if err := os.WriteFile(args[2], make([]byte, n), 0o600); err != nil {
			fmt.Print(err)
			return 1
		}
		fmt.Print("written")
	default:
		term := make(chan os.Signal, 1)
		asked := make(chan struct{})
		if verb == "term" {
			signal.Notify(term, syscall.SIGTERM)
			go func() { <-term; close(asked) }()
		} else {
			signal.Ignore(syscall.SIGTERM)
		}
		return program.Main(program.Proc{
			Args: args, Env: os.Environ(), Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Term: asked,
		})
	}
	return 0
}

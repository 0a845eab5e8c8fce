// Command limits runs into the limit that its argument names, to show what a
// caller then reads:
//
//	limits memory    takes memory until it is killed
//	limits time      sleeps for an hour
//	limits exit      ends with exit code 3 and a reason on standard error
//	limits processes starts children until it may not
package main

import (
	"fmt"
	"os"
	"os/exec"
	"time"
)

func main() {
	what := ""
	if len(os.Args) > 1 {
		what = os.Args[1]
	}
	switch what {
	case "memory":
		var all [][]byte
		for n := 1; ; n++ {
			block := make([]byte, 1<<20)
			for i := 0; i < len(block); i += 4096 {
				block[i] = 1
			}
			all = append(all, block)
			fmt.Fprintf(os.Stderr, "took %d MB\n", n)
			if len(all) > 4096 {
				fmt.Fprintln(os.Stderr, "limits: 4 GB and still running: there is no limit")
				os.Exit(1)
			}
		}
	case "time":
		fmt.Fprintln(os.Stderr, "going to sleep")
		time.Sleep(time.Hour)
	case "exit":
		fmt.Fprintln(os.Stderr, "limits: out of ideas")
		os.Exit(3)
	case "processes":
		started := 0
		for ; started < 100_000; started++ {
			if err := exec.Command("/proc/self/exe", "time").Start(); err != nil {
				fmt.Printf("no process after %d: %v\n", started, err)
				return
			}
		}
		fmt.Fprintln(os.Stderr, "limits: 100,000 processes: there is no limit")
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, "limits: name a limit: memory, time, exit or processes")
		os.Exit(2)
	}
}

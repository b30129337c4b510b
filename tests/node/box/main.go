// What an agent's image has where there is no shell: the few things that a test, or
// whoever got into an agent, does in a container.
//
//	box dial ADDRESS   connects, or says why not
//	box list PATH      the names in a directory
//	box read PATH      a file
//	box sleep          until TERM
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if err := do(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "box:", err)
		os.Exit(1)
	}
}

func do(words []string) error {
	if len(words) == 1 && words[0] == "sleep" {
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, syscall.SIGTERM)
		<-ended
		return nil
	}
	if len(words) != 2 {
		return fmt.Errorf("%q is not one of dial ADDRESS, list PATH, read PATH, sleep", words)
	}
	switch words[0] {
	case "dial":
		connection, err := net.DialTimeout("tcp", words[1], 3*time.Second)
		if err != nil {
			return err
		}
		return connection.Close()
	case "list":
		entries, err := os.ReadDir(words[1])
		for _, entry := range entries {
			fmt.Println(entry.Name())
		}
		return err
	case "read":
		content, err := os.ReadFile(words[1])
		if err != nil {
			return err
		}
		_, err = os.Stdout.Write(content)
		return err
	}
	return fmt.Errorf("%q is not one of dial, list, read, sleep", words[0])
}

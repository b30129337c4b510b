// What an agent's image has where there is no shell: the few things that a test, or
// whoever got into an agent, does in a container.
//
//	box dial ADDRESS        connects, or says why not
//	box each LINE...        does each of these in turn, up to the first that fails
//	box feed LINE PROGRAM   runs a program with a line of input
//	box list PATH           the names in a directory
//	box post PATH FILE      posts a file to the API server, as the pod's service account
//	box read PATH           a file
//	box sleep               until TERM
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
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
	switch {
	case len(words) == 1 && words[0] == "sleep":
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, syscall.SIGTERM)
		<-ended
		return nil
	case len(words) > 1 && words[0] == "each":
		for _, line := range words[1:] {
			if err := do(strings.Fields(line)); err != nil {
				return err
			}
		}
		return nil
	case len(words) == 3 && words[0] == "feed":
		program := exec.Command(words[2])
		program.Stdin = strings.NewReader(words[1] + "\n")
		program.Stdout, program.Stderr = os.Stdout, os.Stderr
		return program.Run()
	case len(words) == 3 && words[0] == "post":
		return post(words[1], words[2])
	case len(words) != 2:
		return fmt.Errorf("%q is not one of dial ADDRESS, each LINE..., feed LINE PROGRAM, list PATH, post PATH FILE, read PATH, sleep", words)
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
	return fmt.Errorf("%q is not one of dial, each, feed, list, post, read, sleep", words[0])
}

// By the files that the kubelet mounts into a container for this.
func post(path, file string) error {
	const account = "/var/run/secrets/kubernetes.io/serviceaccount/"
	token, err := os.ReadFile(account + "token")
	if err != nil {
		return err
	}
	authority, err := os.ReadFile(account + "ca.crt")
	if err != nil {
		return err
	}
	body, err := os.Open(file)
	if err != nil {
		return err
	}
	request, err := http.NewRequest("POST", "https://kubernetes.default.svc"+path, body)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+string(token))
	request.Header.Set("Content-Type", "application/json")
	authorities := x509.NewCertPool()
	authorities.AppendCertsFromPEM(authority)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authorities}}
	client := http.Client{Transport: transport, Timeout: 10 * time.Second}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusCreated {
		said, _ := io.ReadAll(answer.Body)
		return fmt.Errorf("%s: %s", answer.Status, said)
	}
	return nil
}

// Sends mixed requests with Go's net/http, and checks each body by its hash. Arguments: the number of requests, then the
// URLs of servers as tests/world/mixed.js, which are asked in turn.
package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math"
	"math/rand"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
)

const (
	mib     = 1024 * 1024
	workers = 32
)

var (
	pool    = make([]byte, mib)
	methods = []string{"GET", "POST", "GET", "POST", "HEAD"}
	client  = http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}}
)

func sizeOf(number int) int { // from 0 to 1 MiB, most of them small
	if number%500 < 2 {
		return number % 500 * mib
	}
	part := math.Mod(float64(number)*0.618034, 1)
	return int(math.Pow(2, 20*part*part)) - 1
}

func hash(data []byte) string {
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

func one(server string, number int) error {
	method, size, options := methods[number%len(methods)], sizeOf(number), ""
	if number%3 == 0 {
		options = "chunked&"
	}
	if number%23 == 0 {
		options += "close"
	}
	sent := pool[:size]
	var body io.Reader
	if method == "POST" {
		body = bytes.NewReader(sent)
		if number%7 < 3 {
			body = io.MultiReader(body) // of unknown length, so it is sent chunked
		}
	}
	request, err := http.NewRequest(method, fmt.Sprintf("%s/%d/%d?%s", server, number, size, options), body)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	switch {
	case err != nil:
		return err
	case answer.StatusCode != 200:
		return fmt.Errorf("status %d", answer.StatusCode)
	case answer.Header.Get("x-number") != strconv.Itoa(number):
		return fmt.Errorf("the response to another request")
	case method == "HEAD" && len(got) > 0:
		return fmt.Errorf("a body for HEAD")
	case method == "GET" && len(got) != size:
		return fmt.Errorf("%d bytes", len(got))
	case method == "POST" && string(got) != fmt.Sprintf("%d %s", size, hash(sent)):
		return fmt.Errorf("the upload has another hash")
	case method != "HEAD" && answer.Header.Get("x-sha256") != hash(got):
		return fmt.Errorf("another hash")
	}
	return nil
}

func main() {
	count, _ := strconv.Atoi(os.Args[1])
	servers := os.Args[2:]
	rand.Read(pool)
	var next int64
	var working sync.WaitGroup
	for worker := 0; worker < workers; worker++ {
		working.Add(1)
		go func() {
			defer working.Done()
			for {
				number := int(atomic.AddInt64(&next, 1)) - 1
				if number >= count {
					return
				}
				if err := one(servers[number%len(servers)], number); err != nil {
					fmt.Fprintf(os.Stderr, "%s %d of %d bytes: %v\n", methods[number%len(methods)], number, sizeOf(number), err)
					os.Exit(1)
				}
			}
		}()
	}
	working.Wait()
	fmt.Println(count, "checked")
}

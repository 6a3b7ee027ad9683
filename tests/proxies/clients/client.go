// go run client.go URL PHOTO COUNT: COUNT photos as multipart and COUNT as a chunked stream of raw bytes over one client. To
// http with Expect: 100-continue; to https by HTTP/2, where nginx sends no 100 and Go would wait for it each time.
// Prints each label, how often it came, and the connections made.
package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"mime/multipart"
	"net/http"
	"net/http/httptrace"
	"os"
	"strconv"
	"strings"
	"time"
)

var (
	labels      = map[string]int{}
	connections = 0
)

func main() {
	url := os.Args[1]
	photo, err := os.ReadFile(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	count, err := strconv.Atoi(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig:       &tls.Config{InsecureSkipVerify: true},
		ForceAttemptHTTP2:     true,
		ExpectContinueTimeout: time.Minute,
	}}
	for i := 0; i < count; i++ {
		form := &bytes.Buffer{}
		writer := multipart.NewWriter(form)
		part, _ := writer.CreateFormFile("image", "a.png")
		part.Write(photo)
		writer.Close()
		request, _ := http.NewRequest("POST", url, form)
		request.Header.Set("Content-Type", writer.FormDataContentType())
		if strings.HasPrefix(url, "http:") {
			request.Header.Set("Expect", "100-continue")
		}
		ask(client, request)
		// a reader of no known length: Go sends it in chunks
		request, _ = http.NewRequest("POST", url, io.MultiReader(bytes.NewReader(photo)))
		request.Header.Set("Content-Type", "image/png")
		ask(client, request)
	}
	for label, times := range labels {
		fmt.Printf("%s\t%d\n", label, times)
	}
	fmt.Printf("connections\t%d\n", connections)
}

func ask(client *http.Client, request *http.Request) {
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if !info.Reused {
			connections++
		}
	}}
	answer, err := client.Do(request.WithContext(httptrace.WithClientTrace(request.Context(), trace)))
	if err != nil {
		log.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		log.Fatal(err)
	}
	var found struct{ Prediction string }
	if json.Unmarshal(body, &found); found.Prediction == "" {
		found.Prediction = fmt.Sprintf("%s %s", answer.Status, body)
	}
	labels[found.Prediction]++
}

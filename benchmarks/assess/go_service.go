// An API on Go's net/http, in memory.
package main

import (
	"encoding/json"
	"net/http"
	"os"
	"strconv"
	"sync"
)

type Item struct {
	ID    int     `json:"id"`
	Name  string  `json:"name"`
	Price float64 `json:"price"`
}

var (
	lock  sync.Mutex
	items = map[int]Item{}
)

func create(w http.ResponseWriter, r *http.Request) {
	var item Item
	if err := json.NewDecoder(r.Body).Decode(&item); err != nil {
		http.Error(w, "no JSON", http.StatusBadRequest)
		return
	}
	if item.Name == "" {
		http.Error(w, "name", http.StatusUnprocessableEntity)
		return
	}
	lock.Lock()
	item.ID = len(items) + 1
	items[item.ID] = item
	lock.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	json.NewEncoder(w).Encode(item)
}

func read(w http.ResponseWriter, r *http.Request) {
	number, _ := strconv.Atoi(r.PathValue("id"))
	lock.Lock()
	item, found := items[number]
	lock.Unlock()
	if !found {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(item)
}

func main() {
	http.HandleFunc("POST /items", create)
	http.HandleFunc("GET /items/{id}", read)
	http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil)
}

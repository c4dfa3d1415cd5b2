// An API on Express, in memory.
const express = require("express");
const app = express();
const items = new Map();
app.use(express.json());
app.post("/items", (request, response) => {
  const { name, price } = request.body ?? {};
  if (typeof name !== "string") return response.status(422).json({ error: "name" });
  const id = items.size + 1;
  items.set(String(id), { id, name, price });
  response.status(201).json({ id, name, price });
});
app.get("/items/:id", (request, response) => {
  const item = items.get(request.params.id);
  return item ? response.json(item) : response.status(404).json({ error: "not found" });
});
app.listen(Number(process.env.PORT), "127.0.0.1");

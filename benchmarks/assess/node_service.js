// An API on Node's own server, in memory.
const http = require("node:http");
const items = new Map();
http.createServer((request, response) => {
  const reply = (status, value) => {
    response.writeHead(status, { "Content-Type": "application/json" });
    response.end(JSON.stringify(value));
  };
  if (request.method === "POST" && request.url === "/items") {
    let body = "";
    request.on("data", (piece) => { body += piece; });
    request.on("end", () => {
      let item;
      try { item = JSON.parse(body); } catch { return reply(400, { error: "no JSON" }); }
      if (typeof item?.name !== "string") return reply(422, { error: "name" });
      const id = items.size + 1;
      items.set(String(id), item);
      reply(201, { id, ...item });
    });
    return;
  }
  const item = request.method === "GET" && items.get(request.url.split("/items/")[1]);
  return item ? reply(200, item) : reply(404, { error: "not found" });
}).listen(Number(process.env.PORT), "127.0.0.1");

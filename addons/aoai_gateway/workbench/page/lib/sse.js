// Server-sent events from a stream of text (WHATWG HTML §9.2), as far as the workbench's server writes them.

/** Takes text as it comes, and gives the events that are complete: `{event, data}`, data decoded. */
export class EventReader {
  #rest = "";

  feed(text) {
    const parts = (this.#rest + text).split("\n\n");
    this.#rest = parts.pop();
    const events = [];
    for (const part of parts) {
      let event = "message";
      const data = [];
      for (const line of part.split("\n")) {
        if (line.startsWith("event:")) event = line.slice(6).trim();
        else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
      }
      if (data.length) events.push({ event, data: JSON.parse(data.join("\n")) });
    }
    return events;
  }
}

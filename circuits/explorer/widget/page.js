// A stand-in for the notebook's model: the same calls, answered from what was saved with the page.

function savedModel({ state, details, measured, nothing }) {
  const listeners = {};
  const tell = (name, ...what) => (listeners[name] ?? []).forEach((call) => call(...what));
  const answer = ({ node, prompt }) => {
    const sections = details[node] ?? [{ kind: "note", text: "What this node does was not saved with the page; save(details=…) says of how many." }];
    return { kind: "detail", node, prompt, sections };
  };
  const measure = () => {
    const { selection } = state;
    if (!Object.keys(measured).length) return {};
    if (!selection.length) return nothing;
    return selection.length === 1 && measured[selection[0]] ? measured[selection[0]]
      : { words: "This page knows what single nodes are worth; several at once need the notebook." };
  };
  state.measured = measure();
  return {
    get: (name) => state[name],
    set: (name, value) => {
      state[name] = value;
      tell(`change:${name}`);
      if (name === "selection") {
        state.measured = measure();
        tell("change:measured");
      }
    },
    on: (name, call) => (listeners[name] ??= []).push(call),
    off: (name, call) => (listeners[name] = (listeners[name] ?? []).filter((other) => other !== call)),
    send: (message) => message.kind === "detail" && setTimeout(() => tell("msg:custom", answer(message))),
    save_changes: () => {},
  };
}

// What the browser keeps for the page. Where it forbids that, or has no room left, the page does without.

const attempt = (step, otherwise) => {
  try {
    return step();
  } catch {
    return otherwise;
  }
};

/** Wrap a storage, which is asked for anew each time: where storage is forbidden, to name it is an error. */
function safe(storage) {
  const remove = (name) => { attempt(() => storage().removeItem(name)); };
  return {
    /** Give a text, or null. */
    read: (name) => attempt(() => storage().getItem(name), null),
    /** Keep a text; where there is no room for it, an older one is no longer kept either. */
    write: (name, text) => { attempt(() => { storage().setItem(name, text); return true; }, false) || remove(name); },
    remove,
  };
}

/** As long as the tab is open. */
export const ofTab = safe(() => sessionStorage);

/** For good. */
export const ofBrowser = safe(() => localStorage);

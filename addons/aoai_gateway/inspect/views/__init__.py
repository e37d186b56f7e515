"""A prompt and its answer as people read them: the content views *Prompt* and *Completion*.

A request's body becomes YAML that reads like a script, and can be edited and put back. An answer's body, in
any of its forms on the wire, becomes the text that the model wrote; above and below stand the facts about it.

    facts        what a flow tells beside its bytes
    shapes       reading decoded JSON that may be anything
    attachments  images, sounds, files: one line each, never their base64
    yaml_writer  JSON values -> YAML for people
    yaml_reader  that YAML, as it was edited -> JSON values
    edits        an edited document -> the JSON text, of which all that was not edited stays, byte by byte
    prompt       request body -> the Prompt view, and back
    answer       what all kinds of answers have in common, filter verdicts too, and how it is laid out
    sse          event stream -> decoded events
    chat         chat completions and completions -> answer
    responses    Responses objects and their typed events -> answer
    messages     Claude's messages and their events -> answer
    embeddings   vectors -> their number, length and norm
    errors       error bodies, and what the gateway decided
    completion   response body -> what is in it, by its form, and the Completion view
    contentviews the two views, as mitmproxy wants them
    prompt_editor what mitmweb's page edits, and gives back
    mitmweb_page that page, changed to show text as it is, to filter by metadata, and to edit a prompt

Everything but the last three is a pure function of bytes and facts. None of it raises for what is in a
body: broken ones are what people debug most of all.
"""

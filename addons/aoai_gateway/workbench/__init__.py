"""The workbench: a page where prompts are read, edited, run, compared and kept as cases.

access     who may use it: mitmweb's password or cookie, or the admin listener's token
calls      the calls that it shows, and the pages that are told of changes
rows       a flow -> a line of the list
documents  a flow -> all that the page shows of one call
bodies     the bodies of messages: read here or elsewhere, by their size
child      long work in a process of its own, with bounds of time and memory
edits      an edited prompt -> the flow that is to be sent
counting   what an edited prompt takes, before it is sent
runs       an edited prompt to several places at once, streaming
hold       the calls of one client, caught before they are sent
case_files sets of cases in a folder
news       wakes the pages that follow the calls
members    the members of a page's request, each of its type
faults     the faults of such a request
handlers   the HTTP interface
site       the page's files, and the policy that a browser keeps
setup      how mitmweb and the headless host get it

Pure functions of bytes, which `child` can call elsewhere (their modules import little):

shape      a call's bodies -> messages, tools, parameters and answer, of bounded size
parts      a long string of a request, whole
prompts    what the page sends back -> the body that is to be sent
checks     whether an answer meets its expectations
set_texts  the texts of sets
"""

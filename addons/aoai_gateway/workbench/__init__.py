"""The workbench: a page where prompts are read, edited, run, compared and kept as cases.

access     who may use it: mitmweb's password or cookie, or the admin listener's token
calls      the calls that it shows, and the pages that are told of changes
rows       a flow -> a line of the list
documents  a flow -> all that the page shows of one call
bodies     the bodies of messages: read here or elsewhere, by their size
child      long work in a process of its own, with bounds of time and memory
counting   what an edited prompt takes, before it is sent
runs       an edited prompt to several places at once, streaming
hold       the calls of one client, caught before they are sent
case_files sets of cases in a folder
page_requests what a page asks for: its members, each of its type, and what is wrong with them
handlers   the HTTP interface
handler    … what is common to it: access, errors, and the page's files with the policy that a browser keeps
setup      how mitmweb and the headless host get it

Pure functions of bytes, which `child` can call elsewhere (their modules import little):

shape      a call's bodies -> messages, tools, parameters and answer, of bounded size; a long string, whole
prompts    what the page sends back -> the body that is to be sent
checks     whether an answer meets its expectations
"""

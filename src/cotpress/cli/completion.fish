function __cotpress_script
    set -l parts (commandline -opc)
    test (count $parts) -ge 2; and test -f "$parts[2]"; and grep -q 'cotpress\.cli\.app' -- $parts[2]
end
function __cotpress_words
    set -l parts (commandline -opc)
    set -lx COMP_LINE (commandline -cp)
    set -lx COMP_POINT (string length -- $COMP_LINE)
    $parts[1] $parts[2] -sc query=fish 2>/dev/null
end
for name in python python3
    complete -c $name -n '__cotpress_script; and not string match -q "*=*" -- (commandline -ct)' -f
    complete -c $name -n __cotpress_script -a '(__cotpress_words)'
end

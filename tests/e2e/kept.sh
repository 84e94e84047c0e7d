# Asks for two responses on one connection with curl. Arguments: cases and base URLs. Prints a line for each, as kept.py.
cases=$1
shift
for base; do
  echo "$cases" | tr , '\n' | while read -r name; do
    printf '%s' "$name"
    path=$(echo "$name" | sed 's/ /%20/g')
    curl -sg -m 20 -w ' %{http_code} %{exitcode}\n' "$base/$path" "$base/after" | while read -r outcome; do
      printf ' | %s' "$outcome"
    done
    echo
  done
done

# The name of hpc/batch/modules.sh before the rooms: batch scripts that wait in a queue source it. Gone after one release.
source "$(dirname "${BASH_SOURCE[0]}")/batch/modules.sh"

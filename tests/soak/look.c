/* Who is stuck, and where in the kernel. */
#include "supervisor.h"
#include <dirent.h>

static void show_file(const char *directory, const char *task, const char *name, const char *wanted) {
    char path[600], line[400];
    snprintf(path, sizeof path, "%s/%s/%s", directory, task, name);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file))
        if (!wanted || strstr(line, wanted))
            printf("        %s: %s%s", name, line, strchr(line, '\n') ? "" : "\n");
    if (file)
        fclose(file);
}

static void show_process(const char *process) {
    char directory[300];
    snprintf(directory, sizeof directory, "/proc/%s/task", process);
    DIR *tasks = opendir(directory);
    for (struct dirent *task = tasks ? readdir(tasks) : NULL; task; task = readdir(tasks)) {
        if (task->d_name[0] == '.')
            continue;
        printf("    process %s, thread %s\n", process, task->d_name);
        show_file(directory, task->d_name, "comm", NULL);
        show_file(directory, task->d_name, "status", "State");
        show_file(directory, task->d_name, "status", "Sig");
        show_file(directory, task->d_name, "wchan", NULL);
        show_file(directory, task->d_name, "syscall", NULL);
        show_file(directory, task->d_name, "stack", NULL);
    }
    if (tasks)
        closedir(tasks);
}

/* All threads of the processes of this life; and what UDAX_ON_HANG, a command, tells of the worker's process. */
void show_processes(struct slot *slot) {
    char command[4096];
    if (getenv("UDAX_ON_HANG")) {
        snprintf(command, sizeof command, "%s %d", getenv("UDAX_ON_HANG"), slot->worker);
        fflush(stdout);
        if (system(command) != 0)
            printf("    %s failed\n", command);
    }
    for (int n = 0; n < ACTORS; n++) {
        const struct actor *actor = &slot->segment->actors[n];
        if (atomic_load(&actor->thread))
            printf("    actor %d: thread %d of %d, %lu operations, now in %u\n", n, atomic_load(&actor->thread),
                   atomic_load(&actor->process), atomic_load(&actor->progress), atomic_load(&actor->doing));
    }
    DIR *processes = opendir("/proc");
    for (struct dirent *entry = processes ? readdir(processes) : NULL; entry; entry = readdir(processes)) {
        pid_t process = atoi(entry->d_name);
        if (process > 0 && getpgid(process) == slot->worker)
            show_process(entry->d_name);
    }
    if (processes)
        closedir(processes);
    fflush(stdout);
}

/* Whether the process is there and no zombie. */
bool lives(pid_t process) {
    char path[64], line[512] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", process);
    FILE *file = fopen(path, "r");
    bool read = file && fgets(line, sizeof line, file);
    if (file)
        fclose(file);
    const char *name_end = read ? strrchr(line, ')') : NULL;
    return name_end && name_end[2] != 'Z' && name_end[2] != 'X';
}

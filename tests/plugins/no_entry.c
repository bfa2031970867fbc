/* no_entry - a shared object that is not a plugin. */

int no_entry(void);

int
no_entry(void)
{
    return 0;
}
